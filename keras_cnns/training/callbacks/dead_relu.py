"""The fraction of each ReLU's channels that are always 0."""

from statistics import fmean
from typing import Any

import keras
from keras import ops

from keras_cnns.training.callbacks.diagnostic import ProbeDiagnostic
from keras_cnns.training.callbacks.probe import Pass, Tensors


class DeadReLU(ProbeDiagnostic):
    """Measure the fraction of channels that are 0 for every image and position of a batch.

    No gradient passes through such a channel, so the batch cannot change its weights. A growing
    fraction shows that the learning rate is too high or the biases are too low.

    Metrics: `dead_relu/layer`, 0 to 1; `dead_relu`, the mean over the layers. A model without ReLU
    layers has no such metrics.

    References:
        Maas, Hannun and Ng 2013, Rectifier nonlinearities improve neural network acoustic models.
    """

    layer_metrics = ("dead_relu",)

    def compute(self, tensors: Pass) -> Tensors:
        """Return the fraction of dead channels (the last axis) for each ReLU."""
        return {
            f"dead_relu/{name}": _dead_fraction(tensors.outputs[name])
            for name, layer in tensors.layers.items()
            if _is_relu(layer)
        }

    def summarise(self, metrics: dict[str, dict[str, float]]) -> dict[str, float]:
        """Return the mean over the layers."""
        fractions = metrics["dead_relu"].values()
        return {"dead_relu": fmean(fractions)} if fractions else {}


def _dead_fraction(outputs: Any) -> Any:
    """Return the fraction of channels whose maximum is not above 0: [N, ..., C] -> scalar."""
    maxima = ops.max(outputs, axis=tuple(range(len(outputs.shape) - 1)))
    return ops.mean(ops.cast(maxima <= 0, "float32"))


def _is_relu(layer: keras.layers.Layer) -> bool:
    """Return whether a layer computes max(x, 0)."""
    if isinstance(layer, keras.layers.ReLU):
        return not layer.negative_slope
    return getattr(layer, "activation", None) in (keras.activations.relu, keras.activations.relu6)
