"""A model's answers on a split, and what they say of it."""

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

BINS = 15  # of the confidence, as in Guo et al. 2017


@dataclass(frozen=True)
class Mistake:
    """A picture whose class was not recognised."""

    image: np.ndarray  # uint8 [H, W, C]
    number: int  # its place in the split, from 0
    label: int
    predicted: int
    confidence: float  # the probability of the predicted class
    of_label: float  # that of the true class


@dataclass(frozen=True)
class Predictions:
    """Answers to N samples of K classes."""

    classes: int
    labels: np.ndarray  # int [N]
    predicted: np.ndarray  # int [N]
    confidences: np.ndarray  # float [N], the highest probability
    mistakes: tuple[Mistake, ...]  # the worst, most confident first

    @property
    def accuracy(self) -> float:
        """Return the share that is right."""
        return float(np.mean(self.predicted == self.labels))

    def confusion(self) -> np.ndarray:
        """Return counts [K, K]: true class in the row, predicted in the column."""
        flat = self.labels * self.classes + self.predicted
        return np.bincount(flat, minlength=self.classes**2).reshape(self.classes, self.classes)

    def precision_and_recall(self) -> tuple[np.ndarray, np.ndarray]:
        """Return both by class, float [K]; NaN where there is nothing to count."""
        counts = self.confusion()
        hits = np.diag(counts).astype(float)
        with np.errstate(invalid="ignore"):
            return hits / counts.sum(axis=0), hits / counts.sum(axis=1)


@dataclass(frozen=True)
class Calibration:
    """How well confidence agrees with accuracy, in bins of equal width."""

    confidence: np.ndarray  # float [bins], the mean; NaN for an empty bin
    accuracy: np.ndarray  # float [bins]; NaN for an empty bin
    counts: np.ndarray  # int [bins]

    @property
    def error(self) -> float:
        """Return the expected calibration error, ECE (Guo et al. 2017, equation 3)."""
        gaps = np.nan_to_num(np.abs(self.confidence - self.accuracy))
        return float(np.sum(gaps * self.counts) / max(self.counts.sum(), 1))


def calibrate(confidences: np.ndarray, is_right: np.ndarray, bins: int = BINS) -> Calibration:
    """Sort predictions [N] into bins (0, 1/bins], ..., (1 - 1/bins, 1] of confidence."""
    places = np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(places, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(places, confidences, bins) / counts
        accuracy = np.bincount(places, is_right.astype(float), bins) / counts
    return Calibration(confidence, accuracy, counts)


def wilson_interval(hits: float, samples: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927)."""
    if not samples:
        return 0.0, 1.0
    share, extra = hits / samples, z**2 / samples
    middle = (share + extra / 2) / (1 + extra)
    half = z * math.sqrt(share * (1 - share) / samples + extra / samples / 4) / (1 + extra)
    return middle - half, middle + half


def collect(model: keras.Model, batches: Iterable[Any], worst: int = 24) -> Predictions:
    """Ask a model about every batch of (images uint8 [N, H, W, C], labels int [N]).

    Args:
        model: images -> probabilities [N, K], or a dict of outputs of which `main` is that.
        batches: an epoch of a split.
        worst: how many mistakes to keep, those that the model was surest of.
    """
    labels, predicted, confidences = [], [], []
    heap: list[tuple[float, int, Mistake]] = []
    seen = classes = 0
    for images, targets in batches:
        answers = model.predict_on_batch(images)
        probabilities = np.asarray(answers["main"] if isinstance(answers, dict) else answers)
        targets, pixels = np.asarray(targets), np.asarray(images)
        classes = probabilities.shape[1]
        best = probabilities.argmax(axis=1)
        confidence = probabilities.max(axis=1).astype(float)
        for i in np.flatnonzero(best != targets):
            label, of_label = int(targets[i]), float(probabilities[i, targets[i]])
            number = seen + int(i)
            mistake = Mistake(
                pixels[i], number, label, int(best[i]), float(confidence[i]), of_label
            )
            # Of equally sure ones the first in the split; a number is there once.
            heapq.heappush(heap, (mistake.confidence, -number, mistake))
            if len(heap) > worst:
                heapq.heappop(heap)
        seen += len(targets)
        labels.append(targets)
        predicted.append(best)
        confidences.append(confidence)
    mistakes = tuple(mistake for *_, mistake in sorted(heap, key=lambda each: each[:2])[::-1])
    return Predictions(
        classes,
        np.concatenate(labels).astype(int),
        np.concatenate(predicted),
        np.concatenate(confidences),
        mistakes,
    )
