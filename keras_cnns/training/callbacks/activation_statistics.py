"""Where the activations of each layer lie, and how that shifts as the net is trained."""

from statistics import median

import keras
from keras import ops

from keras_cnns.training.callbacks.diagnostic import ProbeDiagnostic
from keras_cnns.training.callbacks.probe import Pass, Tensors

NOT_ACTIVATIONS = (keras.activations.linear, keras.activations.softmax)
ACTIVATION_LAYERS = (
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.PReLU,
    keras.layers.ELU,
)


class ActivationStatistics(ProbeDiagnostic):
    """Measure mean and standard deviation of each activation over a batch: covariate shift.

    Taken of the layers that apply a nonlinearity (softmax is none), or where a net has none, of
    those with a kernel; over samples, positions and channels together.

    Figures: `activation_mean/layer` and `activation_spread/layer`; `activation_mean` and
    `activation_spread`, the medians over the layers.

    References:
        Ioffe and Szegedy 2015, Batch normalization: accelerating deep network training by reducing
        internal covariate shift (arXiv:1502.03167), figure 1.
    """

    layer_figures = ("activation_mean", "activation_spread")

    def look(self, seen: Pass) -> Tensors:
        """Return E[a] and sqrt(Var[a]) for each activation."""
        names = [name for name, layer in seen.layers.items() if is_activation(layer)]
        outputs = {name: seen.outputs[name] for name in names or seen.gradients}
        return {f"activation_mean/{name}": ops.mean(a) for name, a in outputs.items()} | {
            f"activation_spread/{name}": ops.std(a) for name, a in outputs.items()
        }

    def summarise(self, figures: dict[str, dict[str, float]]) -> dict[str, float]:
        """Return the medians over the layers."""
        return {name: median(each.values()) for name, each in figures.items() if each}


def is_activation(layer: keras.layers.Layer) -> bool:
    """Say whether a layer applies a nonlinearity to its output."""
    if isinstance(layer, ACTIVATION_LAYERS):
        return True
    activation = getattr(layer, "activation", None)
    return activation is not None and activation not in NOT_ACTIVATIONS
