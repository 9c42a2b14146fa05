"""Temperature scaling (Guo et al. 2017) brings a model's confidence close to its accuracy.

The logits are divided by one number T, chosen to maximize the likelihood of a split's true classes.
The most probable class of an image stays the same, so the accuracy does not change.
"""

from collections.abc import Iterable

import numpy as np
from scipy.optimize import brentq
from scipy.special import softmax

from keras_cnns_export.batches import Array, Batch
from keras_cnns_export.contract import Calibration
from keras_cnns_export.errors import ExportError
from keras_cnns_export.graph import ServingGraph

# Without a minimum, a model that predicts every image correctly would get a temperature of 0.
_MIN_TEMPERATURE, MAX_TEMPERATURE = 0.1, 10.0


def calibrate(graph: ServingGraph, batches: Iterable[Batch], split: str) -> Calibration:
    """Fit a temperature on labelled images. The graph must have the output `logits`.

    Raises:
        ExportError: the images have no true classes, or there are no images.
    """
    predict, logits, classes = graph.reference(), [], []
    for images, labels in batches:
        if labels is None:
            raise ExportError(
                "a temperature can only be fitted on labelled images, and these images have no "
                "labels"
            )
        logits.append(predict(images)["logits"])
        classes.append(labels)
    if not logits:
        raise ExportError(f"the split {split!r} has no images to fit a temperature on")
    all_logits, all_classes = np.concatenate(logits), np.concatenate(classes)
    temperature = fit_temperature(all_logits, all_classes)
    before, after = (
        expected_calibration_error(softmax(all_logits / each, axis=1), all_classes)
        for each in (1.0, temperature)
    )
    return Calibration(temperature, before, after, split, len(all_classes))


def fit_temperature(logits: Array, classes: Array) -> float:
    """Return the temperature between 0.1 and 10 that minimizes the cross-entropy.

    The cross-entropy is convex in 1/T. For one image, the derivative of the cross-entropy with
    respect to 1/T is the mean of the logits, weighted by the probabilities, minus the logit of the
    true class.

    Args:
        logits: [N, K].
        classes: the true classes, int [N].
    """
    logits = logits.astype(np.float64)
    true = logits[np.arange(len(classes)), classes]

    def slope(inverse: float) -> float:
        expected = (softmax(logits * inverse, axis=1) * logits).sum(axis=1)
        return float((expected - true).mean())

    low, high = 1 / MAX_TEMPERATURE, 1 / _MIN_TEMPERATURE
    if slope(low) >= 0:
        return MAX_TEMPERATURE
    if slope(high) <= 0:
        return _MIN_TEMPERATURE
    return float(1 / brentq(slope, low, high))


def expected_calibration_error(probabilities: Array, classes: Array) -> float:
    """Return the expected calibration error, 0..1, as the training report computes it.

    Args:
        probabilities: [N, K].
        classes: the true classes, int [N].
    """
    from keras_cnns.report.metrics import reliability_bins

    is_correct = probabilities.argmax(axis=1) == classes
    return float(reliability_bins(probabilities.max(axis=1), is_correct).error)
