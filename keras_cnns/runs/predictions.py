"""A model's predictions on a split, and the metrics that follow from them."""

import heapq
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

BINS = 15  # of the confidence, as in Guo et al. 2017
# Of the true class in the loss, which would be infinite for one that float32 rounds to 0.
MIN_PROBABILITY = float(np.finfo(np.float32).tiny)


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
    """Predictions for N images of K classes."""

    classes: int
    labels: np.ndarray  # int [N]
    predicted: np.ndarray  # int [N]
    confidences: np.ndarray  # float [N], the highest probability
    mistakes: tuple[Mistake, ...]  # the worst, most confident first
    loss: float  # mean cross-entropy of the main output, in nats

    @property
    def accuracy(self) -> float:
        """Return the fraction of images that are classified correctly."""
        return float(np.mean(self.predicted == self.labels))

    def metrics(self) -> dict[str, float]:
        """Return the number of images, `samples`, and their `loss` and `accuracy`."""
        return {"samples": len(self.labels), "loss": self.loss, "accuracy": self.accuracy}

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


def predictor(model: keras.Model) -> Callable[[Any], np.ndarray]:
    """Return a function: images uint8 [N, H, W, C] -> probabilities [N, K] of the main output.

    It is traced once for batches of every size, and involves no tf.data: for arrays `model.predict`
    makes a pipeline with autotuning.
    """

    def call(images: tf.Tensor) -> tf.Tensor:
        outputs = model(images, training=False)
        return outputs["main"] if isinstance(outputs, dict) else outputs

    signature = tf.TensorSpec((None, *model.inputs[0].shape[1:]), tf.uint8)
    traced = tf.function(call, input_signature=[signature], autograph=False)
    return lambda images: np.asarray(traced(images))


def collect(model: keras.Model, batches: Iterable[Any], worst: int = 24) -> Predictions:
    """Predict the classes of batches of (images uint8 [N, H, W, C], labels int [N]).

    Args:
        model: images -> probabilities [N, K], or a dict of outputs of which `main` is that.
        batches: an epoch of a split.
        worst: the number of mistakes to keep: those in which the model was most confident.
    """
    labels, predicted, confidences, of_labels = [], [], [], []
    heap: list[tuple[float, int, Mistake]] = []
    seen = classes = 0
    predict = predictor(model)
    for images, targets in batches:
        probabilities = predict(images)
        targets, pixels = np.asarray(targets), np.asarray(images)
        classes = probabilities.shape[1]
        best = probabilities.argmax(axis=1)
        confidence = probabilities.max(axis=1).astype(float)
        of_label = probabilities[np.arange(len(targets)), targets].astype(float)
        for i in np.flatnonzero(best != targets):
            number = seen + int(i)
            mistake = Mistake(
                image=pixels[i],
                number=number,
                label=int(targets[i]),
                predicted=int(best[i]),
                confidence=float(confidence[i]),
                of_label=float(of_label[i]),
            )
            # Of equally confident mistakes the first in the split is kept.
            heapq.heappush(heap, (mistake.confidence, -number, mistake))
            if len(heap) > worst:
                heapq.heappop(heap)
        seen += len(targets)
        labels.append(targets)
        predicted.append(best)
        confidences.append(confidence)
        of_labels.append(of_label)
    mistakes = tuple(mistake for *_, mistake in sorted(heap, key=lambda each: each[:2])[::-1])
    return Predictions(
        classes,
        np.concatenate(labels).astype(int),
        np.concatenate(predicted),
        np.concatenate(confidences),
        mistakes,
        float(-np.mean(np.log(np.maximum(np.concatenate(of_labels), MIN_PROBABILITY)))),
    )
