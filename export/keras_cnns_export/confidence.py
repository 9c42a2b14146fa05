"""Thresholds for the highest probability of an image, for model.json's entry `confidence`.

Programs can treat an image as unknown if its highest probability is below a threshold. The
thresholds are chosen during the comparison of the formats, from the probabilities of Keras in
float32. If the export has a temperature, these probabilities already include it. The probabilities
of the float32 formats differ from them by at most 1e-4.
"""

import numpy as np

from keras_cnns.runs.selective import Confidence, find_thresholds
from keras_cnns_export.batches import Array


class ConfidenceRecorder:
    """Record each image's highest probability, and whether the most probable class is correct."""

    def __init__(self) -> None:
        self._confidences: list[Array] = []
        self._is_correct: list[Array] = []
        self._labelled = True

    def add(self, expected: Array, labels: Array | None) -> None:
        """Add a batch: probabilities [N, K], and the true classes int [N] or None."""
        if labels is None:
            self._labelled = False
            return
        self._confidences.append(expected.max(axis=1))
        self._is_correct.append(expected.argmax(axis=1) == labels)

    def result(self, split: str) -> Confidence | None:
        """Return the thresholds, or None if an image has no true class."""
        if not self._labelled:
            return None
        return find_thresholds(
            split, np.concatenate(self._confidences), np.concatenate(self._is_correct)
        )
