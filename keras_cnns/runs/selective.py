"""Selective prediction: the model answers only if its highest probability reaches a threshold.

An image is answered if its highest probability reaches the threshold. The coverage of a threshold
is the fraction of the images that are answered. A higher threshold has a lower coverage and, if the
probability is a useful confidence, a higher accuracy of the answers (Geifman and El-Yaniv 2017,
"Selective classification for deep neural networks"). The highest softmax probability is also the
baseline for detecting images of unknown objects (Hendrycks and Gimpel 2017).

Probabilities and thresholds are compared in float32, the type of every model's output, so that a
probability that is printed as 0.9 reaches the threshold 0.9.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from keras_cnns.intervals import wilson_interval

ACCURACIES = (0.9, 0.95, 0.98, 0.99)  # a threshold is chosen for each accuracy
_ROUND = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)  # round thresholds that are measured for comparison
_MIN_ANSWERED = 50  # minimum number of answers; the accuracy of fewer answers is too uncertain
_MAX_DECIMALS = 17  # maximum number of decimals of a threshold


@dataclass(frozen=True)
class Threshold:
    """A threshold with its coverage and accuracy on the images on which it was measured.

    The intervals are 95 % intervals (Wilson 1927).

    Attributes:
        min_accuracy: the accuracy for which the threshold was chosen; None for a round threshold.
        threshold: the threshold of the highest probability, from 0 to 1.
        answered: the number of images whose highest probability reaches the threshold.
        correct: the number of answered images that are classified correctly.
        coverage: the fraction of the images that are answered, from 0 to 1.
        coverage_interval: the interval of the coverage.
        accuracy: the accuracy of the answers, from 0 to 1; None if there are no answers.
        accuracy_interval: the interval of the accuracy; None if there are no answers.
    """

    min_accuracy: float | None
    threshold: float
    answered: int
    correct: int
    coverage: float
    coverage_interval: tuple[float, float]
    accuracy: float | None
    accuracy_interval: tuple[float, float] | None


@dataclass(frozen=True)
class Confidence:
    """The thresholds of a model, chosen and measured on one split.

    Attributes:
        split: the name of the split.
        samples: the number of images of the split.
        thresholds: the thresholds for accuracies, then the round thresholds, both ascending.
    """

    split: str
    samples: int
    thresholds: tuple[Threshold, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the values in the form of `results.json` and `model.json`."""
        return asdict(self)


def find_thresholds(split: str, confidences: np.ndarray, is_correct: np.ndarray) -> Confidence:
    """Choose thresholds for the accuracies in `ACCURACIES`, and measure round thresholds.

    The threshold for an accuracy is the lowest threshold whose answers have at least this accuracy.
    An accuracy has no threshold if every threshold with this accuracy would answer fewer than
    `min_answered` images.

    Args:
        split: the name of the split, which must not be the split on which the model is tested.
        confidences: the highest probability of each image, float [N].
        is_correct: whether each image is classified correctly, bool [N].
    """
    chosen = [(each, _choose(each, confidences, is_correct)) for each in ACCURACIES]
    return Confidence(
        split,
        len(confidences),
        (
            *(
                measure_threshold(threshold, confidences, is_correct, accuracy)
                for accuracy, threshold in chosen
                if threshold is not None
            ),
            *(measure_threshold(threshold, confidences, is_correct) for threshold in _ROUND),
        ),
    )


def thresholds_in(content: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the thresholds in the content of `results.json` or `model.json`, if there are any."""
    confidence = content.get("confidence")
    return confidence["thresholds"] if confidence else ()


def find_threshold(results: Mapping[str, Any], accuracy: float) -> float:
    """Return the threshold that was chosen for an accuracy.

    Args:
        results: the results of a run, as in `results.json`.
        accuracy: one of `ACCURACIES`.

    Raises:
        ValueError: there is no such threshold; the message lists the existing ones.
    """
    rows = [each for each in thresholds_in(results) if each["min_accuracy"]]
    known = {each["min_accuracy"]: each["threshold"] for each in rows}
    if accuracy in known:
        return float(known[accuracy])
    existing = f"there are thresholds for {', '.join(f'{each:g}' for each in known)}"
    raise ValueError(
        f"has no threshold for the accuracy {accuracy:g}; "
        f"{existing if known else 'there are no thresholds: give --min-probability, from 0 to 1'}"
    )


def min_answered(accuracy: float) -> int:
    """Return the minimum number of answers for choosing a threshold for an accuracy.

    With fewer than 1 / (1 - accuracy) answers, a single mistake would make the accuracy too low.
    """
    return max(_MIN_ANSWERED, round(1 / (1 - accuracy)))


def is_answered(confidences: np.ndarray, threshold: float) -> np.ndarray:
    """Return whether each confidence, float [N], reaches a threshold."""
    return np.asarray(confidences, np.float32) >= np.float32(threshold)


def measure_threshold(
    threshold: float,
    confidences: np.ndarray,
    is_correct: np.ndarray,
    min_accuracy: float | None = None,
) -> Threshold:
    """Measure a threshold on images; `find_thresholds` describes the arguments."""
    answers = is_correct[is_answered(confidences, threshold)]
    answered, correct, count = len(answers), int(answers.sum()), len(confidences)
    return Threshold(
        min_accuracy,
        threshold,
        answered,
        correct,
        answered / count,
        wilson_interval(answered, count),
        correct / answered if answered else None,
        wilson_interval(correct, answered) if answered else None,
    )


def coverage_curve(
    confidences: np.ndarray, is_correct: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Use every distinct confidence as a threshold, and measure the answers of each threshold.

    Args:
        confidences: the highest probability of each image, float [N].
        is_correct: whether each image is classified correctly, bool [N].

    Returns:
        The thresholds in descending order, float32 [T], the number of answered images at each
        threshold, int [T], and the accuracy of these answers, [T].
    """
    values = np.asarray(confidences, np.float32)
    order = np.argsort(-values, kind="stable")
    values, correct = values[order], np.cumsum(is_correct[order])
    last = np.flatnonzero(np.append(values[1:] != values[:-1], True))  # last index of each value
    return values[last], last + 1, correct[last] / (last + 1)


def _choose(accuracy: float, confidences: np.ndarray, is_correct: np.ndarray) -> float | None:
    """Return the lowest threshold with at least this accuracy; None if there is none."""
    thresholds, answered, accuracies = coverage_curve(confidences, is_correct)
    reached = np.flatnonzero((accuracies >= accuracy) & (answered >= min_answered(accuracy)))
    if not len(reached):
        return None
    lowest = reached[-1]
    if lowest == len(thresholds) - 1:
        return 0.0  # all images are answered
    return _shortest_between(float(thresholds[lowest + 1]), float(thresholds[lowest]))


def _shortest_between(low: float, high: float) -> float:
    """Return a number above `low` and at most `high` with as few decimals as possible.

    With this number as the threshold, the same images are answered as with `high`. Because this
    number lies between `low` and `high`, small differences between the probabilities of several
    inference engines rarely change which images are answered.
    """
    for decimals in range(1, _MAX_DECIMALS):
        # Round the middle, so that the result is far from both bounds.
        rounded = round((low + high) / 2, decimals)
        if np.float32(low) < np.float32(rounded) <= np.float32(high):
            return rounded
    return high
