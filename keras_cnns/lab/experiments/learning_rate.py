"""Experiment 5: constant learning rates (too small, good, too large), and schedules."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_cnns.keras_internals import clear_session
from keras_cnns.lab.experiment import Effect, Experiment, Measurements, Report, Settings
from keras_cnns.lab.networks import fit, lab_recipe, part
from keras_cnns.optimizers import OneCycle
from keras_cnns.recipes import Recipe
from keras_cnns.report import charts
from keras_cnns.report.page import Chart
from keras_cnns.training.callbacks.lr_finder import LRFinder
from keras_cnns.training.lr_finder import find_learning_rate
from keras_cnns.training.preparation import prepare
from keras_cnns.training.schedules import make_schedule

_EPOCHS = 20
_COMPARED = ("0.0001", "0.001", "0.01", "0.1", "1", "100")
_LEARNING_RATES = tuple(f"{10**exponent:.3g}" for exponent in np.linspace(-4, 2, 25))
_TOO_SMALL, _DIVERGING = _COMPARED[0], _COMPARED[-1]
_SCHEDULES = {
    "step": ("optimizer.schedule=step", "optimizer.decay_at_epochs={steps}"),
    "cosine": ("optimizer.schedule=cosine",),
    "one_cycle": ("optimizer.schedule=one_cycle",),
}
_CHANCE = math.log(10)  # nats: the loss if all ten classes have equal probabilities
_LARGEST = 10.0  # nats: this value replaces losses that are larger or not finite
_COMMON = (
    "model.name=resnet20",
    "data.train_split=train[:40%]",
    "optimizer.warmup_epochs=0.0",
    "optimizer.schedule=constant",
)


def _bounded(losses: Sequence[float]) -> list[float]:
    return [min(loss, _LARGEST) if math.isfinite(loss) else _LARGEST for loss in losses]


class _ConstantLearningRate(keras.optimizers.schedules.LearningRateSchedule):
    """Train one compiled network with one constant learning rate after another.

    Each training begins with the same weights, and sees the same batches in the same order. The
    learning rate is a variable, so that TensorFlow compiles the training step once.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.prepared = recipe, prepare(recipe)
        self.learning_rate = keras.Variable(0.0, trainable=False)
        self.optimizer = self.prepared.model.optimizer
        self.optimizer.learning_rate = self
        self.weights = self.prepared.model.get_weights()

    def __call__(self, step: Any) -> Any:
        return self.learning_rate.value

    def train(self, learning_rate: float, report: Report) -> list[float]:
        """Return the training loss of each epoch."""
        self.prepared.model.set_weights(self.weights)
        for variable in self.optimizer.variables:
            variable.assign(keras.ops.zeros_like(variable))
        self.learning_rate.assign(learning_rate)
        curves = fit(self.recipe, report, validate=False, prepared=self.prepared)
        return _bounded(curves["loss"])


def _run(seed: int, settings: Settings, report: Report) -> Measurements:
    epochs = settings.scaled(_EPOCHS, 4)
    common = (*_COMMON, f"training.epochs={epochs}")
    count = len(_LEARNING_RATES) + 1 + len(_SCHEDULES)
    report(0.0, "learning-rate finder")

    def train(index: int, schedule: str, *overrides: str) -> list[float]:
        clear_session()
        recipe = lab_recipe(settings, seed, *common, *overrides)
        return _bounded(fit(recipe, part(report, index, count, schedule), validate=False)["loss"])

    finder = find_learning_rate(lab_recipe(settings, seed, *common))
    suggestion = finder.propose()
    clear_session()
    schedule = _ConstantLearningRate(lab_recipe(settings, seed, *common))
    constant = {
        rate: schedule.train(float(rate), part(report, index, count, f"learning rate {rate}"))
        for index, rate in enumerate(_LEARNING_RATES)
    }
    suggested = schedule.train(suggestion, part(report, len(_LEARNING_RATES), count, "suggestion"))
    good = min(_COMPARED, key=lambda rate: constant[rate][-1])
    steps = [round(epochs * fraction, 1) for fraction in (0.5, 0.75)]
    schedules = {"constant": constant[good]} | {
        name: train(
            len(_LEARNING_RATES) + 1 + index,
            name.replace("_", "-"),
            f"optimizer.learning_rate={good}",
            *(each.format(steps=steps) for each in overrides),
        )
        for index, (name, overrides) in enumerate(_SCHEDULES.items())
    }
    return {
        "constant": constant,
        "good": good,
        "suggestion": suggestion,
        "suggested": suggested,
        "schedules": schedules,
        "finder": {
            "learning_rates": finder.learning_rates,
            "losses": _bounded(finder.smoothed().tolist()),
        },
    }


def _final(losses: Sequence[float]) -> float:
    return float(losses[-1])


def _above_the_best(learning_rate: str) -> Callable[[Measurements], float]:
    """Return a function that computes a learning rate's final loss minus that of the best one."""
    return lambda measured: (
        _final(measured["constant"][learning_rate]) - _final(measured["constant"][measured["good"]])
    )


def _log_ratio(measured: Measurements, schedule: str) -> float:
    """Return log10(final loss with a constant learning rate / final loss with the schedule)."""
    final = {name: _final(losses) for name, losses in measured["schedules"].items()}
    return math.log10(max(final["constant"], 1e-9) / max(final[schedule], 1e-9))


def _charts(measurements: Sequence[Measurements]) -> list[Chart | None]:
    rates = list(measurements[0]["constant"])
    return [
        charts.mean_lines(
            "Training loss with a constant learning rate",
            {
                rate: [each["constant"][rate] for each in measurements]
                for rate in rates
                if rate in _COMPARED
            },
            x="epoch",
            y="training loss in nats",
            log=True,
        ),
        charts.mean_lines(
            "Training loss with schedules, each with the best constant learning rate as its peak",
            {
                name.replace("_", "-"): [each["schedules"][name] for each in measurements]
                for name in measurements[0]["schedules"]
            },
            x="epoch",
            y="training loss in nats",
            log=True,
        ),
        charts.lines(
            "Final training loss by learning rate",
            {
                f"seed {seed}": (
                    [float(rate) for rate in rates],
                    [_final(each["constant"][rate]) for rate in rates],
                )
                for seed, each in enumerate(measurements)
            },
            x="constant learning rate",
            y="training loss of the last epoch in nats",
            log=True,
            log_x=True,
            mark=(_suggestion(measurements), "the finder's suggestion"),
        ),
        charts.lines(
            "Learning-rate finder: loss while the learning rate rises",
            {
                f"seed {seed}": (each["finder"]["learning_rates"], each["finder"]["losses"])
                for seed, each in enumerate(measurements)
            },
            x="learning rate",
            y="smoothed loss in nats",
            log_x=True,
            mark=(
                _suggestion(measurements),
                "the suggestion: a tenth of the learning rate at the minimum",
            ),
        ),
    ]


def _suggestion(measurements: Sequence[Measurements]) -> float:
    """Return the geometric mean of the suggestions over the seeds."""
    return float(np.exp(np.mean([math.log(each["suggestion"]) for each in measurements])))


def _table(measured: Measurements) -> dict[str, dict[str, float]]:
    column = "training loss of the last epoch, nats"
    rows = {
        f"constant, {rate}": {column: _final(losses)}
        for rate, losses in measured["constant"].items()
    }
    rows["constant, the finder's suggestion"] = {column: _final(measured["suggested"])}
    for name, losses in measured["schedules"].items():
        if name != "constant":
            rows[f"{name.replace('_', '-')}, peak at the best constant learning rate"] = {
                column: _final(losses)
            }
    return rows


def _findings(measurements: Sequence[Measurements]) -> list[str]:
    good = sorted({float(each["good"]) for each in measurements})
    by_schedule = {
        name: float(np.mean([_final(each["schedules"][name]) for each in measurements]))
        for name in measurements[0]["schedules"]
    }
    best = min(by_schedule, key=lambda name: by_schedule[name])
    diverged = [
        rate
        for rate in measurements[0]["constant"]
        if np.mean([_final(each["constant"][rate]) for each in measurements]) > _CHANCE
        and float(rate) > good[-1]
    ]
    sentences = [
        "The best of the compared constant learning rates is "
        f"{' or '.join(f'{rate:g}' for rate in good)}"
        f"{', depending on the seed' if len(good) > 1 else ''}. The finder suggests "
        f"{_suggestion(measurements):.2g} (geometric mean over the seeds).",
        f"With {len(diverged)} of the {len(measurements[0]['constant'])} learning rates, the final "
        "loss is above ln 10 = 2.3 nats, the loss of random guessing. The smallest of these "
        f"learning rates is {min(diverged, key=float)}."
        if diverged
        else "With every learning rate, the final loss is below ln 10 = 2.3 nats, the loss of "
        "random guessing: batch norm makes each layer independent of the scale of its weights.",
        f'Of all schedules, "{best.replace("_", "-")}" has the lowest final loss, '
        f"{by_schedule[best]:.3g} nats.",
    ]
    if best != "constant":
        sentences.append(
            f"The final loss with the constant learning rate is {by_schedule['constant']:.3g} nats."
        )
    else:
        curve = np.mean([each["schedules"]["constant"] for each in measurements], axis=0)
        before = curve[len(curve) * 3 // 4 - 1]
        sentences.append(
            "In the last quarter of the training, the loss with the constant learning rate changed "
            f"from {before:.3g} to {curve[-1]:.3g} nats. As long as the loss decreases at the full "
            "learning rate, lowering the learning rate only makes the training slower. In a longer "
            "training, or with harder images, the noise of the batches would at some point keep "
            "the loss with a constant learning rate from decreasing."
        )
    return sentences


EXPERIMENT = Experiment(
    number=5,
    name="learning-rate",
    claim="With too small a learning rate, training converges slowly. With too large a learning "
    "rate, it does not converge. The suggestion of the learning-rate finder lies between these two "
    "learning rates. A schedule that lowers the learning rate ends with a lower loss than a "
    "constant learning rate.",
    source="Bengio 2012, Practical Recommendations for Gradient-Based Training, section 3.1.1; "
    "Smith 2017, Cyclical Learning Rates, section 3.3 (finder); Loshchilov and Hutter 2017, SGDR "
    "(cosine); Smith and Topin 2018, Super-Convergence (one-cycle)",
    varied=f"The constant learning rate, which has {len(_LEARNING_RATES)} values from 0.0001 to "
    "100, and the schedule. The best learning rate is the one with the lowest final loss among "
    f"{', '.join(_COMPARED[:-1])} and {_COMPARED[-1]}. The others are compared with it, and it is "
    "the peak learning rate of the schedules.",
    fixed="ResNet-20, two fifths of the training images, a momentum of 0.9, batches of 32 images, "
    "no warmup, and the number of epochs.",
    measured=f"The training loss, averaged over each epoch. A loss that is above {_LARGEST:.0f} "
    f"nats or not finite counts as {_LARGEST:.0f} nats.",
    look_at="In the first figure, find a learning rate for each of four cases: the loss decreases "
    "slowly, decreases fast, does not decrease, or diverges. In the second figure, compare the "
    "last epochs: with a constant learning rate, the noise that the batches cause remains, and "
    "schedules remove this noise at the end.",
    larger_run="With more epochs, the loss with the smallest learning rate continues to decrease. "
    "For the last part of the claim, harder images would help, but more epochs would not. In "
    "longer trials with three seeds, we compared the final loss with cosine decay to the final "
    "loss with the best constant learning rate. Cosine decay had the lower final loss with two of "
    "the three seeds after 40 epochs, but with only one seed after 80 epochs, and with only one "
    "seed after 160 epochs. After so many epochs, the network fits all training images (the loss "
    "is below 0.001), and the gradients have no noise left that a lower learning rate could "
    "average out. To train on harder images, run the experiment with --data fashion-mnist.",
    effects=(
        Effect(
            "final loss with the learning rate 0.0001 minus final loss with the best learning rate",
            " nats",
            0.5,
            _above_the_best(_TOO_SMALL),
        ),
        Effect(
            "final loss with the learning rate 100 minus final loss with the best learning rate",
            " nats",
            0.5,
            _above_the_best(_DIVERGING),
        ),
        Effect(
            "final loss with the best learning rate minus final loss with the suggested learning "
            "rate",
            " nats",
            -0.1,
            lambda measured: (
                _final(measured["constant"][measured["good"]]) - _final(measured["suggested"])
            ),
        ),
        Effect(
            "final loss with the best constant learning rate divided by final loss with cosine "
            "decay",
            " orders of magnitude",
            0.1,
            lambda measured: _log_ratio(measured, "cosine"),
        ),
    ),
    formula="w <- w - learning_rate(step) velocity\n"
    "cosine:    peak (1 + cos(pi step / steps)) / 2\n"
    "one-cycle: a rise to the peak, then a fall to 0\n"
    "finder:    a tenth of the learning rate at which the smoothed loss is lowest",
    implementation=(make_schedule, OneCycle, LRFinder.propose),
    questions=(
        "On a quadratic with curvature c, above which learning rate does gradient descent diverge, "
        "and how does it behave just below this learning rate?",
        "Batch norm makes a layer independent of the scale of its weights. How do the weights "
        "change if the learning rate is too large, and how do the next steps change as a "
        "consequence?",
        "Why does the finder suggest a tenth of the learning rate with the lowest loss, and not "
        "this learning rate itself?",
        "All parameters have the same learning rate. If rare features have small gradients, which "
        "parameters learn too slowly, and what do AdaGrad and Adam change?",
    ),
    run=_run,
    charts=_charts,
    table=_table,
    findings=_findings,
    seconds=170,
    fixed_seconds=50,
)
