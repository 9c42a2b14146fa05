"""The mean and standard deviation of each layer's activations, which drift during training."""

from statistics import median

import keras
from keras import ops

from keras_cnns.training.callbacks.diagnostic import ProbeDiagnostic
from keras_cnns.training.callbacks.probe import Pass, Tensors

_NOT_ACTIVATIONS = (keras.activations.linear, keras.activations.softmax)
_ACTIVATION_LAYERS = (
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.PReLU,
    keras.layers.ELU,
)


class ActivationStatistics(ProbeDiagnostic):
    """Measure the mean and standard deviation of each layer's activations.

    A change of these statistics during training is called internal covariate shift.

    All layers that apply a nonlinearity other than softmax are measured. If a model has no such
    layer, all layers with a kernel are measured. Mean and standard deviation are taken over images,
    positions and channels together.

    Metrics: `activation_mean/layer` and `activation_std/layer`, the standard deviation;
    `activation_mean` and `activation_std`, the medians over the layers.

    References:
        Ioffe and Szegedy 2015, Batch normalization: accelerating deep network training by reducing
        internal covariate shift (arXiv:1502.03167), figure 1.
    """

    layer_metrics = ("activation_mean", "activation_std")

    def compute(self, tensors: Pass) -> Tensors:
        """Return mean E[a] and standard deviation sqrt(Var[a]) of each layer's activations."""
        names = [name for name, layer in tensors.layers.items() if _is_activation(layer)]
        outputs = {name: tensors.outputs[name] for name in names or tensors.gradients}
        return {f"activation_mean/{name}": ops.mean(a) for name, a in outputs.items()} | {
            f"activation_std/{name}": ops.std(a) for name, a in outputs.items()
        }

    def summarise(self, metrics: dict[str, dict[str, float]]) -> dict[str, float]:
        """Return the medians over the layers."""
        return {name: median(each.values()) for name, each in metrics.items() if each}


def _is_activation(layer: keras.layers.Layer) -> bool:
    """Return whether a layer applies a nonlinearity to its output."""
    if isinstance(layer, _ACTIVATION_LAYERS):
        return True
    activation = getattr(layer, "activation", None)
    return activation is not None and activation not in _NOT_ACTIVATIONS
