"""Experiment 2: how activation, weights, batch norm and skips change each layer's gradient."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_cnns.keras_internals import clear_session
from keras_cnns.lab.experiment import Effect, Experiment, Measurements, Report, Settings
from keras_cnns.lab.networks import fit, lab_recipe, part
from keras_cnns.models.shortcuts import SHORTCUTS
from keras_cnns.models.variations import ACTIVATIONS, KERNEL_INITIALIZERS
from keras_cnns.recipes import Recipe
from keras_cnns.report import charts
from keras_cnns.report.page import Chart
from keras_cnns.training.backend import compute_gradients
from keras_cnns.training.preparation import Preparation, prepare

_DEPTHS = (20, 56)
_SHORTCUTS = {"plain": "none", "residual": "identity"}
_NORMALISATIONS = {"no batch norm": "false", "batch norm": "true"}
_IMAGES = 32
_LOSS_SCALE = 2.0**100  # factor of the loss, so that small gradients stay above 0 in float32
_SMALLEST = 1e-45 / _LOSS_SCALE  # smaller gradients are 0 in float32 in spite of the factor
_EPOCHS = 24  # number of epochs for the networks whose training is followed
_FOLLOWED = {
    "plain, sigmoid, small normal": ("plain", "no batch norm", "sigmoid", "small_normal"),
    "plain, ReLU, He": ("plain", "no batch norm", "relu", "he_normal"),
    "plain, ReLU, He, batch norm": ("plain", "batch norm", "relu", "he_normal"),
    "residual, ReLU, He, batch norm": ("residual", "batch norm", "relu", "he_normal"),
}
# Gradients vanish if the first layer's gradient divided by the last layer's gradient is below
# 1 / 1000, and explode if this ratio is above 1000.
_FACTOR = 1000.0


def gradient_norms(model: keras.Model, images: Any, labels: Any) -> dict[str, float]:
    """Return the L2 norm of the gradient with respect to each convolution's kernel, in order.

    The loss is multiplied by a constant before the backward pass, and the norms are divided by it,
    since float32 has no numbers below 1e-45 (Micikevicius et al. 2018, section 3.2).
    """
    layers = [each for each in model.layers if isinstance(each, keras.layers.Conv2D)]
    kernels = [layer.kernel for layer in layers]

    def loss(values: Sequence[Any]) -> tuple[Any, list[Any]]:
        with keras.StatelessScope(zip(kernels, values, strict=True)):
            predicted = model(images, training=True)
            return _LOSS_SCALE * model.compute_loss(x=images, y=labels, y_pred=predicted), []

    gradients, _ = compute_gradients(loss, [kernel.value for kernel in kernels])
    return {
        layer.name: float(np.linalg.norm(np.asarray(gradient, float)) / _LOSS_SCALE)
        for layer, gradient in zip(layers, gradients, strict=True)
    }


def _initialise(model: keras.Model, initializer: str) -> None:
    """Give all convolutions new weights from the initializer KERNEL_INITIALIZERS[initializer]."""
    draw = keras.initializers.get(KERNEL_INITIALIZERS[initializer])
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            layer.kernel.assign(type(draw).from_config(draw.get_config())(layer.kernel.shape))


class _Follow(keras.callbacks.Callback):
    """Measure the gradient norms of all layers before each epoch, and after the last one.

    Attributes:
        norms: float [epochs + 1][layers], without the stem.
    """

    def __init__(self, prepared: Preparation) -> None:
        super().__init__()
        self.images, self.labels = prepared.probe()
        self.norms: list[list[float]] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        norms = gradient_norms(self.model, self.images, self.labels)
        self.norms.append(list(norms.values())[1:])

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.on_epoch_begin(self.params["epochs"])


def _recipe(
    settings: Settings, seed: int, depth: int, case: Sequence[str], *overrides: str
) -> Recipe:
    kind, normalisation, activation = case
    return lab_recipe(
        settings,
        seed,
        f"model.name=resnet{depth}",
        f"model.shortcut={_SHORTCUTS[kind]}",
        f"model.activation={activation}",
        f"model.batch_normalization={_NORMALISATIONS[normalisation]}",
        f"training.batch_size={_IMAGES}",
        *overrides,
    )


def _train(settings: Settings, seed: int, report: Report) -> Measurements:
    """Train four of the combinations, and return their gradient norms and losses."""
    followed: Measurements = {}
    for index, (name, (*case, initializer)) in enumerate(_FOLLOWED.items()):
        recipe = _recipe(
            settings,
            seed,
            _DEPTHS[0],
            case,
            "data.train_split=train[:40%]",
            "optimizer.learning_rate=0.01",
            f"training.epochs={settings.scaled(_EPOCHS, 4)}",
        )
        clear_session()
        prepared = prepare(recipe)
        _initialise(prepared.model, initializer)
        follow = _Follow(prepared)
        curves = fit(
            recipe,
            part(report, index, len(_FOLLOWED), name),
            [follow],
            validate=False,
            prepared=prepared,
        )
        followed[name] = {**curves, "norms": follow.norms}
    return followed


def _run(seed: int, settings: Settings, report: Report) -> Measurements:
    norms: dict[str, list[float]] = {}
    cases = list(itertools.product(_DEPTHS, _SHORTCUTS, _NORMALISATIONS, ACTIVATIONS))
    at_start = part(report, 0, 2)
    for index, (depth, kind, normalisation, activation) in enumerate(cases):
        at_start(index / len(cases), f"{kind} network of {depth} layers, {activation}")
        recipe = _recipe(settings, seed, depth, (kind, normalisation, activation))
        clear_session()
        prepared = prepare(recipe)
        images, labels = prepared.probe()
        for initializer in KERNEL_INITIALIZERS:
            _initialise(prepared.model, initializer)
            values = gradient_norms(prepared.model, images, labels)
            case = _case(depth, kind, normalisation, activation, initializer)
            norms[case] = list(values.values())[1:]  # without the stem
    return {"norms": norms, "training": _train(settings, seed, part(report, 1, 2))}


def _case(depth: int, kind: str, normalisation: str, activation: str, initializer: str) -> str:
    return f"{kind} {depth}, {normalisation}, {activation}, {initializer}"


def _decades(measured: Measurements, *case: Any) -> float:
    """Return log10(gradient norm of the first convolution after the stem / norm of the last)."""
    norms = measured["norms"][_case(*case)]
    return math.log10(max(norms[0], _SMALLEST) / max(norms[-1], _SMALLEST))


def _total(measured: Measurements, *case: Any) -> float:
    """Return log10 of the gradient norm of all layers together."""
    return math.log10(max(math.hypot(*measured["norms"][_case(*case)]), _SMALLEST))


def _difference(
    norm: Callable[..., float], one: tuple[str, ...], other: tuple[str, ...]
) -> Callable[[Measurements], float]:
    """Return a function that computes `norm` of one case minus `norm` of another, at 56 layers."""
    return lambda measured: norm(measured, 56, *one) - norm(measured, 56, *other)


def _per_layer(measured: Measurements, *case: Any) -> float:
    """Return the geometric mean of (norm in a layer / norm in the next layer) over all layers."""
    layers = len(measured["norms"][_case(*case)])
    return float(10 ** (_decades(measured, *case) / (layers - 1)))


def _charts(measurements: Sequence[Measurements]) -> list[Chart | None]:
    return [*_charts_at_start(measurements), *_charts_of_training(measurements)]


def _charts_of_training(measurements: Sequence[Measurements]) -> list[Chart | None]:
    trained = [each["training"] for each in measurements]
    epochs = range(len(trained[0][next(iter(_FOLLOWED))]["norms"]))
    return [
        *(
            charts.mean_lines(
                f"Gradient norm through training: {name}",
                {
                    f"{position} convolution": [
                        [max(norms[index], _SMALLEST) for norms in each[name]["norms"]]
                        for each in trained
                    ]
                    for position, index in _positions(trained[0][name]["norms"][0]).items()
                },
                x="finished epochs",
                y="norm of the kernel's gradient",
                xs=epochs,
                log=True,
            )
            for name in _FOLLOWED
        ),
        charts.mean_lines(
            f"Training loss of the four networks of {_DEPTHS[0]} layers",
            {name: [each[name]["loss"] for each in trained] for name in _FOLLOWED},
            x="epoch",
            y="loss in nats",
            log=True,
        ),
    ]


def _positions(norms: Sequence[float]) -> dict[str, int]:
    """Return label -> index for the layers that are drawn."""
    last = len(norms) - 1
    return {"first": 0, "middle": last // 2, "last": last}


def _charts_at_start(measurements: Sequence[Measurements]) -> list[Chart | None]:
    return [
        charts.mean_lines(
            f"Gradient norm by layer: {kind} network of 56 layers, {normalisation}",
            {
                f"{activation}, {initializer.replace('_', ' ')}": [
                    each["norms"][_case(56, kind, normalisation, activation, initializer)]
                    for each in measurements
                ]
                for activation in ACTIVATIONS
                for initializer in KERNEL_INITIALIZERS
            },
            x="convolution in order of depth",
            y="norm of the kernel's gradient",
            log=True,
        )
        for normalisation in _NORMALISATIONS
        for kind in _SHORTCUTS
    ]


def _table(measured: Measurements) -> dict[str, dict[str, float]]:
    return {
        f"{activation}, {initializer.replace('_', ' ')}, {normalisation}": {
            f"{kind}, {depth} layers: log10(first / last)": _decades(
                measured, depth, kind, normalisation, activation, initializer
            )
            for kind in _SHORTCUTS
            for depth in _DEPTHS
        }
        for normalisation in _NORMALISATIONS
        for activation in ACTIVATIONS
        for initializer in KERNEL_INITIALIZERS
    }


def _mean(measurements: Sequence[Measurements], *case: Any) -> float:
    return float(np.mean([_decades(each, *case) for each in measurements]))


def _describe_training(measurements: Sequence[Measurements]) -> str:
    """Return sentences about the networks whose gradients were measured during the training."""
    described = []
    for name in _FOLLOWED:
        trained = [each["training"][name] for each in measurements]
        start, end = (
            np.mean(
                [
                    math.log10(max(each["norms"][i][0], _SMALLEST))
                    - math.log10(max(each["norms"][i][-1], _SMALLEST))
                    for each in trained
                ]
            )
            for i in (0, -1)
        )
        loss = np.mean([each["loss"][-1] for each in trained])
        described.append(
            f'In the network "{name}", the ratio changes from 10^{start:.1f} to 10^{end:.1f}, and '
            f"the training loss of the last epoch is {loss:.3g} nats."
        )
    return (
        f"Four networks of {_DEPTHS[0]} layers were trained. During the training, the ratio of the "
        "first convolution's gradient to the last convolution's gradient changes. "
        f"{' '.join(described)} Random guessing has a loss of 2.3 nats."
    )


def _findings(measurements: Sequence[Measurements]) -> list[str]:
    sentences = [
        "In the following numbers, the gradient vanishes if the first layer's gradient is less "
        "than a thousandth of the last layer's gradient, and explodes if the first layer's "
        "gradient is more than a thousand times the last layer's gradient."
    ]
    for normalisation in _NORMALISATIONS:
        for kind in _SHORTCUTS:
            decades = [
                _mean(measurements, 56, kind, normalisation, activation, initializer)
                for activation in ACTIVATIONS
                for initializer in KERNEL_INITIALIZERS
            ]
            vanishing = sum(each < -math.log10(_FACTOR) for each in decades)
            exploding = sum(each > math.log10(_FACTOR) for each in decades)
            sentences.append(
                f"The {kind} network of 56 layers with {normalisation} was measured with "
                f"{len(decades)} combinations of activation and initial weights. The gradient "
                f"vanishes in {vanishing} of them, and explodes in {exploding} of them."
            )
    normalised = {kind: (56, kind, "batch norm", "relu", "he_normal") for kind in _SHORTCUTS}
    plain, residual = (_mean(measurements, *case) for case in normalised.values())
    factor = float(np.mean([_per_layer(each, *normalised["plain"]) for each in measurements]))
    sigmoid = {
        kind: _mean(measurements, 56, kind, "no batch norm", "sigmoid", "glorot_uniform")
        for kind in _SHORTCUTS
    }
    sentences.append(
        "With a sigmoid and Glorot's weights, skips change the ratio of the first layer's gradient "
        f"to the last layer's gradient: this ratio is 10^{sigmoid['plain']:.1f} without skips, and "
        f"10^{sigmoid['residual']:.1f} with skips. The ratio remains small because the activation "
        "follows the addition: the derivative of the sigmoid also multiplies the gradient on the "
        "skip path. The derivative of a ReLU is 1 or 0."
    )
    sentences.append(_describe_training(measurements))
    direction = "grow" if plain > 0 else "fall"
    sentences.append(
        f"With batch norm, ReLU and He's weights, but without skips, the gradients {direction} "
        f"towards the first layer: by a factor of {factor:.3g} per layer, and by a factor of "
        f"10^{plain:.1f} over all layers. With skips, the factor over all layers is "
        f"10^{residual:.1f}. Batch norm removes the scale of the weights from the forward pass, "
        "but not from the backward pass, which divides each gradient by the standard deviation of "
        "the layer's outputs. A ReLU reduces this standard deviation by more than it reduces the "
        "gradient. The gradient therefore grows from layer to layer. Skips add the unchanged "
        "gradient to the gradient that passes through the layer."
    )
    return sentences


EXPERIMENT = Experiment(
    number=2,
    name="gradient-flow",
    claim="At initialisation, three ingredients each reduce the vanishing of the gradient: ReLU, "
    "skips, and initial weights of the right scale. Skips also reduce the explosion of the "
    "gradient that batch norm causes.",
    source="Glorot and Bengio 2010, figure 7 (sigmoid and tanh); He et al. 2015, Delving Deep into "
    "Rectifiers, figure 3 (initial weights); He et al. 2016, Identity Mappings, equation 5 "
    "(skips); Yang et al. 2019, A Mean Field Theory of Batch Normalization, section 3 (explosion)",
    varied="The activation (sigmoid, tanh, ReLU), the initial weights (Glorot's, He's, or a normal "
    "distribution with a standard deviation of 0.01), batch norm (with, without), skips (with, "
    "without) and the depth (20 and 56 layers), in all 72 combinations.",
    fixed=f"The images ({_IMAGES} of the training split), the classifier, and the number of "
    f"filters of each layer. For illustration, four of the combinations with {_DEPTHS[0]} layers "
    f"are also trained, for {_EPOCHS} epochs with the same learning rate schedule (cosine decay "
    "from 0.01) on two fifths of the training images. The verdict does not use these trainings.",
    measured="The norm of the gradient of the loss with respect to the kernel of each convolution. "
    "The norm for the first convolution after the stem, divided by the norm for the last "
    "convolution, is given as a decimal logarithm: -3 means that the first layer's gradient is a "
    "thousandth of the last layer's gradient. The loss is multiplied by 2^100, so that small "
    "gradients do not become 0 in float32. A gradient that is still 0 counts as "
    f"{_SMALLEST:.0e}, which is 1e-45 divided by this factor.",
    look_at="In the first four figures, a straight line means that the gradient changes "
    "exponentially with the depth. Compare the slopes in these figures to see which of the four "
    "ingredients (activation, initial weights, batch norm and skips) make the lines flat. In the "
    "figures of the trainings, compare the distance between the three lines at the start with the "
    "loss that the training reaches.",
    larger_run="The effects grow with the depth, because each layer multiplies the gradient by "
    "about the same factor. If a part of the claim is inconclusive at 56 layers, measure networks "
    "with twice as many layers (resnet110). More images would not help.",
    effects=(
        Effect(
            "factor by which ReLU and He's weights, compared with a sigmoid and Glorot's weights, "
            "raise the ratio of the first layer's gradient to the last layer's gradient (plain "
            "network, no batch norm)",
            " orders of magnitude",
            1.0,
            _difference(
                _decades,
                ("plain", "no batch norm", "relu", "he_normal"),
                ("plain", "no batch norm", "sigmoid", "glorot_uniform"),
            ),
        ),
        Effect(
            "factor by which skips raise the ratio of the first layer's gradient to the last "
            "layer's gradient (sigmoid, Glorot's weights, no batch norm)",
            " orders of magnitude",
            1.0,
            _difference(
                _decades,
                ("residual", "no batch norm", "sigmoid", "glorot_uniform"),
                ("plain", "no batch norm", "sigmoid", "glorot_uniform"),
            ),
        ),
        Effect(
            "factor by which He's weights, compared with weights of standard deviation 0.01, raise "
            "the gradient of all layers together (plain network, ReLU, no batch norm)",
            " orders of magnitude",
            1.0,
            _difference(
                _total,
                ("plain", "no batch norm", "relu", "he_normal"),
                ("plain", "no batch norm", "relu", "small_normal"),
            ),
        ),
        Effect(
            "factor by which skips reduce the growth of the gradient from the last to the first "
            "layer (batch norm, ReLU, He's weights)",
            " orders of magnitude",
            1.1,  # a quarter of 53 * log10(1.21), the growth in theory
            _difference(
                _decades,
                ("plain", "batch norm", "relu", "he_normal"),
                ("residual", "batch norm", "relu", "he_normal"),
            ),
        ),
    ),
    formula="delta^(l-1) = f'(z^(l-1)) W^T delta^l                 without a skip\n"
    "delta^(l-1) = f'(z^(l-1)) (W^T delta^l + delta^l)     with an identity skip\n"
    "Sigmoid: f' <= 1/4. He's weights keep the variance of the gradient: Var[W] = 2 / fan_out.",
    implementation=(gradient_norms, SHORTCUTS["identity"]),
    questions=(
        "What are the smallest and the largest factor by which a sigmoid can multiply a gradient? "
        "What follows for 56 layers?",
        "With initial weights of standard deviation 0.01, the gradients of a plain network are "
        "equally small in all layers. A kernel's gradient is the product of the backpropagated "
        "gradient and another factor. Which factor is it, and why does it become smaller from "
        "layer to layer?",
        "Batch norm makes a layer independent of the scale of its weights. Why are the gradients "
        "of all layers still not equal?",
        "Which of the 72 combinations do you expect to train well, and which of these does your "
        "lecture or textbook name?",
    ),
    run=_run,
    charts=_charts,
    table=_table,
    findings=_findings,
    seconds=170,
    fixed_seconds=150,
)
