"""Experiment 1: the training error of plain and residual networks of growing depth."""

from collections.abc import Sequence

from keras_cnns.keras_internals import clear_session
from keras_cnns.lab.experiment import Effect, Experiment, Measurements, Report, Settings
from keras_cnns.lab.networks import fit, lab_recipe, part
from keras_cnns.models.resnet import basic_block
from keras_cnns.models.shortcuts import SHORTCUTS
from keras_cnns.report import charts
from keras_cnns.report.page import Chart

_FAMILIES = {"plain": "plain", "resnet": "residual"}
_DEPTHS = (8, 20, 44)
_EPOCHS = 20


def _run(seed: int, settings: Settings, report: Report) -> Measurements:
    curves: dict[str, dict[str, list[float]]] = {}
    names = [f"{family}{depth}" for family in _FAMILIES for depth in _DEPTHS]
    for index, name in enumerate(names):
        clear_session()
        recipe = lab_recipe(
            settings,
            seed,
            f"model.name={name}",
            f"training.epochs={settings.scaled(_EPOCHS, at_least=4)}",
            "optimizer.learning_rate=0.05",
        )
        curves[name] = fit(recipe, part(report, index, len(names)))
    return curves


def _difference(measured: Measurements, deep: str, shallow: str) -> float:
    """Return the difference of the last training errors, in percentage points."""
    return float(100 * (measured[deep]["error"][-1] - measured[shallow]["error"][-1]))


def _charts(measurements: Sequence[Measurements]) -> list[Chart | None]:
    by_epoch = [
        charts.mean_lines(
            f"{title} of {words} networks",
            {
                f"{depth} layers": [each[f"{family}{depth}"][key] for each in measurements]
                for depth in _DEPTHS
            },
            x="epoch",
            y="error",
            percent=True,
        )
        for title, key in (("Training error", "error"), ("Validation error", "val_error"))
        for family, words in _FAMILIES.items()
    ]
    last = charts.dots(
        "Training error in the last epoch, a dot for each seed",
        {
            f"{words} {depth}": [each[f"{family}{depth}"]["error"][-1] for each in measurements]
            for family, words in _FAMILIES.items()
            for depth in _DEPTHS
        },
        y="training error",
        percent=True,
    )
    return [*by_epoch, last]


def _table(measured: Measurements) -> dict[str, dict[str, float]]:
    return {
        name: {
            "training error, %": 100 * curves["error"][-1],
            "training loss": curves["loss"][-1],
            "validation error, %": 100 * curves["val_error"][-1],
        }
        for name, curves in measured.items()
    }


EXPERIMENT = Experiment(
    number=1,
    name="degradation",
    claim="A deeper plain network has a higher training error than a shallow one, and a deeper "
    "residual network does not.",
    source="He et al. 2015, Deep Residual Learning for Image Recognition (arXiv:1512.03385), "
    "figures 1 and 6",
    varied="The depth (8, 20 or 44 layers), and whether the blocks have identity shortcuts (option "
    "A in the paper, which adds no parameters).",
    fixed="The images, their order, the number of epochs, the optimizer and its learning rate "
    "schedule. A plain and a residual network of the same depth have the same number of "
    "parameters and the same initial weights.",
    measured="The error on the training images, averaged over the last epoch. The images are not "
    "augmented, so that a network could reach an error of zero.",
    look_at="Compare the order of the three lines in the first figure with their order in the "
    "second figure. A higher training error is not overfitting: the deeper network fits the "
    "training images less well.",
    larger_run="On such small images, the deeper plain network approaches an error of zero after "
    "many more epochs, and the difference becomes smaller. To repeat the paper's experiment, train "
    "on CIFAR-10: keras-cnns train --recipe cifar10-resnet56 --set model.name=plain56 --run "
    "runs/plain56",
    effects=(
        Effect(
            "training error of plain-44 minus training error of plain-8",
            " percentage points",
            1.0,  # the paper gives no numbers; in its figure 1 the curves are four points apart
            lambda measured: _difference(measured, "plain44", "plain8"),
        ),
        Effect(
            "training error of ResNet-8 minus training error of ResNet-44",
            " percentage points",
            -1.0,  # the deeper network may be worse, but by less than one point
            lambda measured: _difference(measured, "resnet8", "resnet44"),
        ),
    ),
    formula="plain:     a^l = f(z^l)\nresidual:  a^l = f(z^l + a^(l-2))\n"
    "If z^l = 0 and a^(l-2) >= 0, a residual block is the identity.\n"
    "A deeper residual network can therefore compute the same function as a shallow one.",
    implementation=(basic_block, SHORTCUTS["none"], SHORTCUTS["identity"]),
    questions=(
        "Why is the higher training error of the deeper plain network not a sign of overfitting?",
        "Which weights would make the deeper plain network compute the same function as the "
        "shallow one?",
        "The networks have batch normalisation. Can vanishing gradients then explain the "
        "difference between plain and residual networks? Compare your answer with the experiment "
        "gradient-flow.",
    ),
    run=_run,
    charts=_charts,
    table=_table,
    seconds=145,
    fixed_seconds=72,
)
