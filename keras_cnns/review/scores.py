"""Rank labels by their probability according to a model that was not trained on them.

This is confident learning (Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating
Uncertainty in Dataset Labels"), with the self-confidence as the score.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ranking:
    """The ranking of N labels by suspicion.

    Attributes:
        order: the indices of the images, the most suspicious image first, int64 [N]. Among images
            with equal scores, the one whose suggested class is more probable comes first.
        confidences: the self-confidence of each image, which is the probability of its given label,
            float64 [N]. This is the score: the lower it is, the more suspicious is the label.
        suggested: the most probable other class, int64 [N].
        suggested_probabilities: the probability of the suggested class, float64 [N].
        is_issue: whether the label is probably wrong, bool [N].
        thresholds: the mean self-confidence of the images of each class, float64 [K]; NaN for a
            class without images.
    """

    order: np.ndarray
    confidences: np.ndarray
    suggested: np.ndarray
    suggested_probabilities: np.ndarray
    is_issue: np.ndarray
    thresholds: np.ndarray


def rank_labels(probabilities: np.ndarray, labels: np.ndarray) -> Ranking:
    """Rank labels by their self-confidence, and decide which labels are probably wrong.

    A label is an issue if it differs from two classes: from the most probable class, and from the
    most probable of those classes whose probabilities reach their thresholds. The threshold of a
    class is the mean probability of that class over the images with its label (equations 1 and
    2 of the paper). A class that the model recognizes badly therefore has a lower threshold than a
    class that it recognizes well.

    Args:
        probabilities: out-of-fold probabilities, float [N, K].
        labels: the given labels, int [N].
    """
    probabilities = np.asarray(probabilities, np.float64)
    rows = np.arange(len(labels))
    confidences = probabilities[rows, labels]
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    sums = np.bincount(labels, confidences, minlength=probabilities.shape[1])
    thresholds = np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0)
    others = probabilities.copy()
    others[rows, labels] = -1.0
    suggested = others.argmax(axis=1)
    with np.errstate(invalid="ignore"):
        confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    found = confident.argmax(axis=1)
    is_issue = (
        (confident[rows, found] >= 0) & (found != labels) & (probabilities.argmax(axis=1) != labels)
    )
    return Ranking(
        np.lexsort((-others[rows, suggested], confidences)),
        confidences,
        suggested,
        others[rows, suggested],
        is_issue,
        thresholds,
    )
