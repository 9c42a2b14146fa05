"""How many units of each ReLU never answer."""

from statistics import fmean
from typing import Any

import keras
from keras import ops

from keras_cnns.training.callbacks.diagnostic import ProbeDiagnostic
from keras_cnns.training.callbacks.probe import Pass, Tensors


class DeadReLU(ProbeDiagnostic):
    """Measure the share of channels that are 0 for every sample and position of a batch.

    Such a channel passes no gradient on, so that its weights cannot move by this batch. A share
    that grows says that the rate is too high, or the biases too low.

    Figures: `dead_relu/layer`, 0 to 1; `dead_relu`, the mean over the layers. None for a net
    without ReLU.

    References:
        Maas, Hannun and Ng 2013, Rectifier nonlinearities improve neural network acoustic models.
    """

    layer_figures = ("dead_relu",)

    def look(self, seen: Pass) -> Tensors:
        """Return the share of dead channels, the last axis, for each ReLU."""
        return {
            f"dead_relu/{name}": dead_share(seen.outputs[name])
            for name, layer in seen.layers.items()
            if is_relu(layer)
        }

    def summarise(self, figures: dict[str, dict[str, float]]) -> dict[str, float]:
        """Return the mean over the layers."""
        shares = figures["dead_relu"].values()
        return {"dead_relu": fmean(shares)} if shares else {}


def dead_share(outputs: Any) -> Any:
    """[N, ..., C] -> the share of the C channels that are nowhere above 0."""
    highest = ops.max(outputs, axis=tuple(range(len(outputs.shape) - 1)))
    return ops.mean(ops.cast(highest <= 0, "float32"))


def is_relu(layer: keras.layers.Layer) -> bool:
    """Say whether a layer's outputs are max(x, 0)."""
    if isinstance(layer, keras.layers.ReLU):
        return not layer.negative_slope
    return getattr(layer, "activation", None) in (keras.activations.relu, keras.activations.relu6)
