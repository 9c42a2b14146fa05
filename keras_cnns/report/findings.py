"""Describe a training's curves and test results in sentences.

A sentence is written only if its condition is met by a margin, since noise between epochs must not
cause a sentence.
"""

from collections.abc import Sequence

import numpy as np

from keras_cnns.intervals import wilson_interval
from keras_cnns.report.records import Records

# The validation loss still falls if its last value is lower than all earlier values by this
# fraction.
_MIN_FALL = 0.01
# A training overfits if the validation loss has risen by this fraction since its minimum.
_MIN_RISE = 0.05
_MIN_EPOCHS_AFTER = 2  # minimum number of epochs after the minimum of the validation loss
# If the interval of a class's recall is wider than this, the class has too few test images.
_MAX_WIDTH = 0.2
_MAX_NAMED = 3  # maximum number of classes that are named


def describe_run(records: Records, counts: np.ndarray | None, labels: Sequence[str]) -> list[str]:
    """Return sentences on a training and on its test results.

    Args:
        records: the training, finished or not.
        counts: the confusion matrix of the test images [K, K]; None without a test.
        labels: the names of the K classes.
    """
    loss, validation_loss = records.metric("loss"), records.metric("val_loss")
    sentences = [describe_overfitting(loss, validation_loss)]
    # `describe_end` advises longer training, which is useless while a training is unfinished.
    if records.results is not None:
        sentences.append(describe_end(validation_loss))
    found = [sentence for sentence in sentences if sentence]
    return found + (describe_scarce_classes(counts, labels) if counts is not None else [])


def describe_end(validation_loss: np.ndarray) -> str:
    """Return a sentence if the validation loss [epochs] still fell in the last epoch, else ""."""
    if len(validation_loss) < 2:
        return ""
    former, last = float(np.nanmin(validation_loss[:-1])), float(validation_loss[-1])
    if not last < former * (1 - _MIN_FALL):
        return ""
    return (
        "The validation loss still fell in the last epoch: train longer. It is "
        f"{last:.4g}, and was at least {former:.4g} in all epochs before."
    )


def describe_overfitting(loss: np.ndarray, validation_loss: np.ndarray) -> str:
    """Return a sentence if the validation loss rose while the training loss fell, or else "".

    Args:
        loss: the training loss [epochs].
        validation_loss: the validation loss [epochs].
    """
    if len(validation_loss) <= _MIN_EPOCHS_AFTER or len(loss) != len(validation_loss):
        return ""
    best = int(np.nanargmin(validation_loss))
    after = validation_loss[best + 1 :]
    if len(after) < _MIN_EPOCHS_AFTER or not loss[-1] < loss[best]:
        return ""
    lowest, last = float(validation_loss[best]), float(after[-1])
    # Check the median too, because the last epoch alone may be an outlier.
    if min(last, float(np.median(after))) < lowest * (1 + _MIN_RISE):
        return ""
    return (
        f"The model has overfitted since epoch {best + 1}. In that epoch, the validation loss was "
        f"lowest ({lowest:.4g}). It then rose to {last:.4g}, while the training loss fell from "
        f"{float(loss[best]):.4g} to {float(loss[-1]):.4g}. More images, stronger augmentation, "
        "more weight decay or fewer epochs may help."
    )


def describe_scarce_classes(counts: np.ndarray, labels: Sequence[str]) -> list[str]:
    """Return sentences on classes that have too few test images to estimate their recall.

    Args:
        counts: the confusion matrix of the test images [K, K], the true class in the row.
        labels: the names of the K classes.
    """
    scarce = {}
    for label, row, hits in zip(labels, counts, np.diag(counts), strict=True):
        total = int(row.sum())
        low, high = wilson_interval(int(hits), total) if total else (0.0, 1.0)
        if high - low > _MAX_WIDTH:
            scarce[label] = (total, low, high)
    if len(scarce) <= _MAX_NAMED:
        return [
            f"{_images(total)} of {label} {'is' if total == 1 else 'are'} too few to measure the "
            f"recall of this class. The 95 % interval of the recall is {low:.0%} to {high:.0%}."
            for label, (total, low, high) in scarce.items()
        ]
    *first, last = (
        f"{label} ({scarce[label][0]})"
        for label in sorted(scarce, key=lambda label: scarce[label][0])[:_MAX_NAMED]
    )
    return [
        f"{len(scarce)} of {len(labels)} classes have too few test images to measure their recall, "
        f"because the 95 % interval of each recall is wider than {_MAX_WIDTH * 100:.0f} percentage "
        f"points. The classes with the fewest test images are {', '.join(first)} and {last}."
    ]


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
