"""Metrics of a classifier's predictions, computed by scikit-learn if it has the metric."""

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from keras_cnns.intervals import format_interval

_BINS = 15  # number of bins of the confidence, as in Guo et al. 2017


@dataclass(frozen=True)
class Reliability:
    """The mean confidence and the accuracy of the predictions in each bin of the confidence."""

    confidence: np.ndarray  # float [bins], the mean confidence; NaN for an empty bin
    accuracy: np.ndarray  # float [bins]; NaN for an empty bin
    counts: np.ndarray  # int [bins]

    @property
    def error(self) -> float:
        """Return the expected calibration error, ECE (Guo et al. 2017, equation 3)."""
        gaps = np.nan_to_num(np.abs(self.confidence - self.accuracy))
        return float(np.sum(gaps * self.counts) / max(self.counts.sum(), 1))


def reliability_bins(
    confidences: np.ndarray, is_correct: np.ndarray, bins: int = _BINS
) -> Reliability:
    """Sort predictions [N] into the bins [0, 1/bins], (1/bins, 2/bins], ... of confidence.

    `sklearn.calibration.calibration_curve` has the same bins, up to rounding at their edges, but
    does not return the empty bins and the counts, which the expected calibration error needs.
    """
    edges = np.arange(1, bins) / bins  # exact quotients, so that a confidence of 9/15 is on an edge
    indices = np.digitize(confidences, edges, right=True)
    counts = np.bincount(indices, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(indices, confidences, bins) / counts
        accuracy = np.bincount(indices, is_correct.astype(float), bins) / counts
    return Reliability(confidence, accuracy, counts)


def confusion_counts(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return counts [K, K]: the true class is the row, the predicted class is the column."""
    return np.asarray(confusion_matrix(labels, predicted, labels=range(classes)))


def precision_and_recall(
    labels: np.ndarray, predicted: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return each class's precision (NaN without predictions) and recall (NaN without images)."""
    precision, recall, _, _ = precision_recall_fscore_support(
        labels, predicted, labels=range(classes), zero_division=np.nan
    )
    return precision, recall


def balanced_accuracy(counts: np.ndarray) -> float:
    """Return the mean recall over the classes that have images, from counts [K, K]."""
    totals = counts.sum(axis=1)
    present = totals > 0
    return float(np.mean(np.diag(counts)[present] / totals[present]))


def recall_intervals(counts: np.ndarray) -> list[tuple[str, str]]:
    """Return each class's recall and its 95 % interval as text, from counts [K, K]."""
    return [
        (f"{hits / total:.1%}" if total else "-", format_interval(hits, int(total)))
        for hits, total in zip(np.diag(counts), counts.sum(axis=1), strict=True)
    ]
