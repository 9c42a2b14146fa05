"""Temperature scaling (Guo et al. 2017): probabilities that are as sure as they are right.

One number T divides the logits; it is the one under which the true classes of a split are most
likely. The order of the classes stays as it is, and so does the accuracy.
"""

from collections.abc import Iterable

import numpy as np

from keras_cnns_export.contract import Calibration
from keras_cnns_export.errors import ExportError
from keras_cnns_export.graph import Array, ServingGraph
from keras_cnns_export.samples import Batch

BINS = 15
# A net that is right about every image of the split would be given a temperature of 0.
LEAST, MOST = 0.1, 10.0


def calibrate(graph: ServingGraph, batches: Iterable[Batch], split: str) -> Calibration:
    """Fit the temperature of a graph that has the output `logits`, on labelled samples.

    Raises:
        ExportError: the samples have no true classes, or there is none.
    """
    predict, logits, classes = graph.reference(), [], []
    for images, labels in batches:
        if labels is None:
            raise ExportError("a temperature is fitted on labelled images, and these have none")
        logits.append(predict(images)["logits"])
        classes.append(labels)
    if not logits:
        raise ExportError(f"the split {split!r} has no images to fit a temperature on")
    all_logits, all_classes = np.concatenate(logits), np.concatenate(classes)
    temperature = fit_temperature(all_logits, all_classes)
    before, after = (
        expected_calibration_error(_softmax(all_logits / each), all_classes)
        for each in (1.0, temperature)
    )
    return Calibration(temperature, before, after, split, len(all_classes))


def fit_temperature(logits: Array, classes: Array) -> float:
    """The temperature of the least cross-entropy, from 0.1 to 10.

    The cross-entropy is convex in 1/T, and its slope is the mean over the samples of the expected
    logit less the true one: halving finds where that changes its sign.

    Args:
        logits: [N, K].
        classes: the true ones, int [N].
    """
    logits = logits.astype(np.float64)
    true = logits[np.arange(len(classes)), classes]
    low, high = 1 / MOST, 1 / LEAST
    for _ in range(60):
        middle = (low + high) / 2
        slope = ((_softmax(logits * middle) * logits).sum(axis=1) - true).mean()
        low, high = (low, middle) if slope > 0 else (middle, high)
    return float(2 / (low + high))


def expected_calibration_error(probabilities: Array, classes: Array) -> float:
    """How far confidence is from accuracy: the mean over 15 equal bins, weighted by their samples.

    Args:
        probabilities: [N, K].
        classes: the true ones, int [N].
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == classes
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, confidence - right, BINS)
    return float(np.abs(gaps).sum() / len(classes))


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
