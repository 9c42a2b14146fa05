"""Measure how well scores distinguish images of known objects from images of unknown objects.

The images of known objects are a split of the recipe; the images of unknown objects come from
elsewhere. The model predicts both. Two scores should be higher for the known images: the highest
softmax probability (Hendrycks and Gimpel 2017) and the negative energy (Liu et al. 2020).
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from scipy.special import logsumexp

from keras_cnns.data import open_split
from keras_cnns.data.sources.folder.findings import printable
from keras_cnns.messages import print_message
from keras_cnns.models.heads import deep_recursion
from keras_cnns.recipes import DataConfig
from keras_cnns.runs.evaluation import open_run_split
from keras_cnns.runs.image_files import describe_problem, find_image_files, read_files
from keras_cnns.runs.predictions import trace
from keras_cnns.runs.run import Run
from keras_cnns.runs.selective import is_answered, thresholds_in

# `unknown_accepted` is measured at the threshold that this fraction of the known images reaches.
_KNOWN_ACCEPTED = 0.95
_BINS = 20  # number of bins of the highest probability
_BATCH_SIZE = 64  # number of images
_LISTED = 5  # number of unreadable files that are listed

Counting = Callable[[str, int], AbstractContextManager[Callable[[int], object]]]


@dataclass(frozen=True)
class Scores:
    """The scores of N images, which should be higher for known objects.

    Attributes:
        probability: the highest softmax probability, float [N].
        energy: the negative energy at temperature 1, log(sum(exp(logits))), float [N].
    """

    probability: np.ndarray
    energy: np.ndarray


@dataclass(frozen=True)
class Separation:
    """The separation of known images from unknown images by a score.

    Attributes:
        auroc: the probability that a known image has a higher score than an unknown image.
        unknown_accepted: the fraction of unknown images whose scores reach a threshold, from 0 to
            1. The threshold is chosen so that the scores of 95 % of the known images reach it.
    """

    auroc: float
    unknown_accepted: float


@dataclass(frozen=True)
class Acceptance:
    """The fractions of images whose highest probability reaches a threshold of the run.

    Attributes:
        min_accuracy: the accuracy for which the threshold was chosen; None for a round threshold.
        threshold: the threshold of the highest probability, from 0 to 1.
        known: the fraction of the known images that reach the threshold, from 0 to 1.
        unknown: the fraction of the unknown images that reach the threshold, from 0 to 1.
    """

    min_accuracy: float | None
    threshold: float
    known: float
    unknown: float


@dataclass(frozen=True)
class UnknownObjects:
    """The comparison of known and unknown images.

    Attributes:
        known: the recipe's split of known images.
        known_images: the number of known images.
        unknown: the folder or data set of unknown images.
        unknown_images: the number of unknown images.
        probability: the separation by the highest softmax probability.
        energy: the separation by the negative energy.
        thresholds: the results for each threshold of the run.
        known_histogram: the fraction of the known images in each bin. The bins divide the highest
            probability into ranges of equal width.
        unknown_histogram: the same for the unknown images.
    """

    known: str
    known_images: int
    unknown: str
    unknown_images: int
    probability: Separation
    energy: Separation
    thresholds: tuple[Acceptance, ...]
    known_histogram: tuple[float, ...]
    unknown_histogram: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the values in the form of `unknown.json`."""
        return asdict(self)


def compare_unknown(run: Run, split: str, unknown: str, counting: Counting) -> UnknownObjects:
    """Compare the scores of a run's model on a split and on images of unknown objects.

    Args:
        run: a finished run.
        split: a split of the run's recipe, as `find_split` returns it.
        unknown: a folder with images at any depth, a folder with idx files, or the name of a data
            set. The test split of the idx files or of the data set is read.
        counting: a function that shows the progress, such as `messages.counting`.

    Raises:
        ValueError: there is no such split, folder or data set, no image can be read, or the model
            does not end in the softmax of a layer `logits`.
    """
    score = _scorer(run.load_model())
    data = run.recipe.data
    unknown_batches, unknown_count = _open_unknown(data, unknown)
    known_batches = open_run_split(run, split, _BATCH_SIZE)
    images = (images for images, _ in known_batches)
    with counting(f"known: {split}", known_batches.num_examples) as count:
        known = _score_all(score, images, count)
    with counting(f"unknown: {printable(unknown)}", unknown_count) as count:
        found = _score_all(score, unknown_batches, count)
    return UnknownObjects(
        known=split,
        known_images=len(known.probability),
        unknown=printable(unknown),
        unknown_images=len(found.probability),
        probability=separate(known.probability, found.probability),
        energy=separate(known.energy, found.energy),
        thresholds=tuple(
            Acceptance(
                row["min_accuracy"],
                row["threshold"],
                *(
                    float(is_answered(each.probability, row["threshold"]).mean())
                    for each in (known, found)
                ),
            )
            for row in thresholds_in(run.results())
        ),
        known_histogram=_histogram(known.probability),
        unknown_histogram=_histogram(found.probability),
    )


def separate(known: np.ndarray, unknown: np.ndarray) -> Separation:
    """Return the separation of known images with scores [N] from unknown images with scores [M]."""
    from sklearn.metrics import roc_auc_score, roc_curve

    is_known = np.repeat([1, 0], [len(known), len(unknown)])
    scores = np.concatenate([known, unknown])
    unknown_accepted, known_accepted, _ = roc_curve(is_known, scores, drop_intermediate=False)
    index = int(np.argmax(known_accepted >= _KNOWN_ACCEPTED))
    return Separation(float(roc_auc_score(is_known, scores)), float(unknown_accepted[index]))


def scores_of(logits: np.ndarray, probabilities: np.ndarray) -> Scores:
    """Return the scores of images from their logits and probabilities, float [N, K]."""
    return Scores(probabilities.max(axis=1), logsumexp(logits.astype(float), axis=1))


def _scorer(model: keras.Model) -> Callable[[Any], Scores]:
    """Return a function that computes the scores of images, uint8 [N, H, W, C]."""
    try:
        logits = model.get_layer("logits").output
    except ValueError:
        raise ValueError(
            "the energy is computed from the model's logits, but the model has no layer `logits`"
        ) from None
    outputs = model.output["main"] if isinstance(model.output, dict) else model.output
    with deep_recursion():
        both = keras.Model(model.inputs, [logits, outputs])
    traced = trace(both, lambda outputs: outputs)
    return lambda images: scores_of(*traced(images))


def _score_all(
    score: Callable[[Any], Scores], batches: Iterable[Any], count: Callable[[int], object]
) -> Scores:
    found: list[Scores] = []
    for images in batches:
        found.append(score(images))
        count(len(images))
    if not found:
        raise ValueError("no image can be read")
    return Scores(
        np.concatenate([each.probability for each in found]),
        np.concatenate([each.energy for each in found]),
    )


def _open_unknown(data: DataConfig, unknown: str) -> tuple[Iterator[Any], int]:
    """Return preprocessed batches of images, uint8 [N, H, W, C], and the number of images."""
    path = Path(unknown)
    if not unknown or path.is_file():
        raise ValueError(
            f"{printable(unknown)!r} is not a folder and not the name of a data set; name a folder "
            "of images, a folder of idx files, or a data set such as digits"
        )
    if path.is_dir() and not any("-ubyte" in each.name for each in path.iterdir()):
        files = find_image_files([path])
        return _read_folder(files, data), len(files)
    is_idx = path.exists()
    if "/" in unknown and not is_idx:
        raise ValueError(f"there is no folder {unknown}")
    if is_idx and data.channels != 1:
        raise ValueError(
            f"{unknown} has grey images, but the images of the run have {data.channels} channels; "
            "give a directory of image files instead"
        )
    other = replace(
        data,
        name="idx" if is_idx else unknown,
        path=unknown if is_idx else "",
        corrections="",  # those of the known images
        fold=0,
        folds=0,
        train_split="train",
        validation_split="validation",
        test_split="test",
    )
    split = open_split(other, "test", batch_size=_BATCH_SIZE)
    return (images for images, _ in split), split.num_examples


def _read_folder(files: list[Path], data: DataConfig) -> Iterator[np.ndarray]:
    """Yield the images of the readable files, and report the other files."""
    unreadable: list[str] = []
    for batch in read_files(files, data):
        images = [image for _, image in batch if isinstance(image, np.ndarray)]
        unreadable += [
            f"{printable(str(path))} ({describe_problem(path, image)})"
            for path, image in batch
            if isinstance(image, Exception)
        ]
        if images:
            yield np.stack(images)
    if unreadable:
        print_message(
            f"files that cannot be read and are not counted: {', '.join(unreadable[:_LISTED])}"
        )
    if len(unreadable) > _LISTED:
        print_message(f"and {len(unreadable) - _LISTED} more files")


def _histogram(probabilities: np.ndarray) -> tuple[float, ...]:
    counts, _ = np.histogram(probabilities, _BINS, (0, 1))
    return tuple((counts / len(probabilities)).tolist())
