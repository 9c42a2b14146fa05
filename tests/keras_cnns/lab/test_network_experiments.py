"""The experiments on networks: their functions, and their verdicts on planted measurements."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import pytest

from keras_cnns.lab.experiment import Effect, Experiment, Measurements, Report, Settings
from keras_cnns.lab.experiments import (
    covariate_shift,
    gradient_flow,
    inception,
    learning_rate,
    shortcuts,
)
from keras_cnns.lab.experiments.covariate_shift import drift
from keras_cnns.lab.experiments.gradient_flow import gradient_norms
from keras_cnns.lab.experiments.inception import early_exit
from keras_cnns.lab.experiments.shortcuts import skip_equations, skip_parameters
from keras_cnns.lab.verdict import Verdict, decide
from keras_cnns.models.resnet import Architecture, cifar_stem, resnet
from keras_cnns.models.variations import vary
from keras_cnns.training.callbacks import GradientNorm, Probe

EPOCHS = 20


def constant(value: float) -> list[float]:
    return [value] * EPOCHS


def plant_gradient_flow(values: Sequence[float]) -> Measurements:
    cases = itertools.product(
        (20, 56),
        ("plain", "residual"),
        ("no batch norm", "batch norm"),
        ("relu", "tanh", "sigmoid"),
        ("small_normal", "glorot_uniform", "he_normal"),
    )
    norms = {gradient_flow._case(*case): [1.0, 1.0] for case in cases}
    relu, sigmoid, total, growth = values
    norms["plain 56, no batch norm, relu, he_normal"] = [10**relu, 1.0]
    norms["residual 56, no batch norm, sigmoid, glorot_uniform"] = [10**sigmoid, 1.0]
    norms["plain 56, no batch norm, relu, small_normal"] = [
        math.hypot(10**relu, 1) / 10**total,
        0.0,
    ]
    norms["plain 56, batch norm, relu, he_normal"] = [10**growth, 1.0]
    followed = {"loss": constant(1.0), "norms": [[1.0, 1.0, 1.0]] * (EPOCHS + 1)}
    return {"norms": norms, "training": dict.fromkeys(gradient_flow._FOLLOWED, followed)}


def plant_learning_rate(values: Sequence[float]) -> Measurements:
    too_small, diverging, margin, cosine = values
    finals = {"0.0001": 1 + too_small, "0.01": 1.5, "0.1": 1.0, "100": 1 + diverging}
    return {
        "constant": {rate: constant(loss) for rate, loss in finals.items()},
        "good": "0.1",
        "suggestion": 0.08,
        "suggested": constant(1 - margin),
        "schedules": {"constant": constant(1.0), "cosine": constant(10**-cosine)},
        "finder": {"learning_rates": [0.1, 1.0], "losses": [2.0, 1.0]},
    }


def plant_shortcuts(values: Sequence[float]) -> Measurements:
    *worse, deviation, parameters = values
    kinds = ("constant_scaling", "exclusive_gating", "projection_everywhere", "dropout")
    points = {"identity": 0.0, "projection": 1.0, **dict(zip(kinds, worse, strict=True))}
    return {
        "kinds": {
            kind: {
                "loss": constant(1.0),
                "error": constant(0.2),
                "val_loss": constant(1.0),
                "val_error": constant(0.2 + each / 100),
                "equations": {"forward": 1e-3 - deviation} if kind == "identity" else {},
                "parameters": 1 - parameters if kind == "identity" else 10,
            }
            for kind, each in points.items()
        }
    }


def plant_inception(values: Sequence[float]) -> Measurements:
    cost, wide, cheap, gradient = values
    points = {"reduction": 0.0, "naive, equal width": wide, "naive, equal cost": cheap}
    networks = {
        name: {
            "val_error": constant(0.2 + each / 100),
            "parameters": 100,
            "multiply_adds": 100 * cost if name == "naive, equal width" else 100,
            "milliseconds": 1.0,
            "early_gradient": constant(2.0),
        }
        for name, each in {**points, "without 3x3": 1.0, "without pool": 2.0}.items()
    }
    head = {"accuracy": 0.9, "multiply_adds": 100}
    return {
        "networks": networks,
        "auxiliary": {
            "val_error": constant(0.2),
            "early_gradient": constant(2.0 * gradient),
            "heads": {"aux1": head, "main": head},
            "curve": [[0.8, 50.0], [0.9, 100.0]],
            "calibrated": [0.9, 80.0],
        },
    }


def plant_covariate_shift(values: Sequence[float]) -> Measurements:
    shift, faster, noisy_shift, noisy_faster = values
    drifts = (10**shift, 1.0, 10 ** (shift + noisy_shift))
    losses = (3.0, 3.0 - faster, 3.0 - noisy_faster)
    names = ("without batch norm", "with batch norm", "with batch norm and noise")
    return {
        "networks": {
            name: {
                "loss": constant(loss),
                "val_error": constant(0.1),
                "learning_rate": 0.005,
                "drift": each,
                "quantiles": [[constant(-1.0), constant(0.0), constant(1.0)]] * 3,
            }
            for name, each, loss in zip(names, drifts, losses, strict=True)
        }
    }


PLANTED: dict[str, tuple[Experiment, Callable[[Sequence[float]], Measurements]]] = {
    module.EXPERIMENT.name: (module.EXPERIMENT, planted)
    for module, planted in (
        (gradient_flow, plant_gradient_flow),
        (learning_rate, plant_learning_rate),
        (shortcuts, plant_shortcuts),
        (inception, plant_inception),
        (covariate_shift, plant_covariate_shift),
    )
}


def above(effect: Effect, amount: float) -> float:
    """Return a value above (or below) the threshold by an amount that fits its size."""
    return effect.min_effect + amount * (abs(effect.min_effect) or 1e-3)


@pytest.mark.parametrize("name", PLANTED)
def test_each_verdict_follows_from_planted_measurements(name: str) -> None:
    experiment, plant = PLANTED[name]
    effects = experiment.effects
    spread = (-0.1, 0.0, 0.1, 0.05, -0.05)  # over the seeds, around the planted value

    def verdict(*amounts: float) -> tuple[Verdict, list[Verdict]]:
        measurements = [
            plant(
                [
                    above(effect, amount * (1 + noise))
                    for effect, amount in zip(effects, amounts, strict=True)
                ]
            )
            for noise in spread
        ]
        result, decisions = decide(experiment, measurements)
        return result, [decision.verdict for decision in decisions]

    count = len(effects)
    supported = [Verdict.SUPPORTED] * count
    assert verdict(*[0.5] * count) == (Verdict.SUPPORTED, supported)
    for index in range(count):
        one = [0.5] * count
        one[index] = -0.4
        expected = [*supported[:index], Verdict.NOT_SUPPORTED, *supported[index + 1 :]]
        assert verdict(*one) == (Verdict.NOT_SUPPORTED, expected), effects[index].name
    # A difference whose sign depends on the seed decides nothing.
    undecided = [
        plant([above(effect, amount) for effect in effects]) for amount in (0.4, -0.4, 0.3, -0.2)
    ]
    result, decisions = decide(experiment, undecided)
    assert result is Verdict.INCONCLUSIVE
    assert {decision.verdict for decision in decisions} == {Verdict.INCONCLUSIVE}


@pytest.mark.parametrize("name", PLANTED)
def test_figures_table_and_findings_follow_from_measurements(name: str) -> None:
    experiment, plant = PLANTED[name]
    measurements = [
        plant([above(effect, amount) for effect in experiment.effects]) for amount in (0.3, 0.5)
    ]
    figures = [each for each in experiment.charts(measurements) if each]
    assert len({figure.title for figure in figures}) == len(figures) >= 3
    rows = experiment.table(measurements[0])
    assert all(isinstance(value, int | float) for row in rows.values() for value in row.values())
    for sentence in experiment.findings(measurements):
        assert sentence[0].isupper()
        assert sentence.endswith(".")
        assert "nan" not in sentence.lower().split()


def tiny_resnet(shortcut: str) -> keras.Model:
    row = Architecture((2, 1), (16, 32), stem=cifar_stem, min_size=4)
    model = resnet(row, (8, 8, 1), 3, shortcut=shortcut)
    model.compile(loss="sparse_categorical_crossentropy")
    return model


def batch() -> tuple[Any, Any]:
    generator = np.random.default_rng(0)
    return generator.normal(size=(6, 8, 8, 1)).astype("float32"), np.arange(6) % 3


@pytest.mark.parametrize("shortcut", ["identity", "projection", "projection_everywhere"])
def test_the_equations_of_the_skip_connection_hold(shortcut: str) -> None:
    keras.utils.set_random_seed(0)
    model = tiny_resnet(shortcut)
    deviations = skip_equations(model, *batch(), "stage1_block2")
    expected = ["forward", "delta", "input"]
    if shortcut == "projection_everywhere":
        expected.insert(2, "skip weight")
    assert sorted(deviations) == sorted(expected)
    assert max(deviations.values()) < 1e-5


def test_only_the_identity_has_nothing_to_update() -> None:
    parameters = {
        kind: skip_parameters(tiny_resnet(kind))
        for kind in ("identity", "projection", "projection_everywhere", "exclusive_gating")
    }
    assert parameters["identity"] == 0
    assert parameters["projection"] == 16 * 32 + 2 * 32  # the kernel; scale and offset
    everywhere = parameters["projection"] + 2 * (16 * 16 + 2 * 16)
    assert parameters["projection_everywhere"] == everywhere
    assert parameters["exclusive_gating"] == 2 * (16 * 16 + 16) + 16 * 32 + 32


def test_gradient_norms_are_those_of_the_diagnostics() -> None:
    keras.utils.set_random_seed(1)
    model = vary(tiny_resnet("none"), activation="tanh", batch_normalization=False)
    model.compile(loss="sparse_categorical_crossentropy")
    norms = gradient_norms(model, *batch())
    probe = Probe(*batch())
    GradientNorm(probe)
    expected = probe.run(model, 0)
    assert list(norms) == [
        each.name for each in model.layers if isinstance(each, keras.layers.Conv2D)
    ]
    for layer, norm in norms.items():
        assert norm == pytest.approx(expected[f"gradient_norm/{layer}"], rel=1e-4)


def test_a_very_small_gradient_is_not_zero() -> None:
    keras.utils.set_random_seed(0)
    model = vary(tiny_resnet("none"), activation="sigmoid", batch_normalization=False)
    model.compile(loss="sparse_categorical_crossentropy")
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            layer.kernel.assign(layer.kernel * 1e-8)
    norms = gradient_norms(model, *batch())
    assert 0 < norms["stem_conv"] < 1e-45  # float32 has no smaller number


def test_an_image_leaves_at_the_first_confident_head() -> None:
    first = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    last = np.array([[0.1, 0.9], [0.4, 0.6], [0.3, 0.7]])
    labels = np.array([0, 1, 1])
    assert early_exit([first, last], labels, [10, 40], 0.7) == (1.0, 20.0)
    assert early_exit([first, last], labels, [10, 40], 0.0) == (2 / 3, 10.0)
    assert early_exit([first, last], labels, [10, 40], 1.0) == (2 / 3, 40.0)
    # Without the second image's confident error, the lowest threshold keeps the last accuracy.
    assert inception._calibrated_threshold([first, last], labels, [10, 40]) == 0.1


def test_drift_is_the_change_of_the_median_in_widths() -> None:
    quantiles = np.zeros((3, 1, 3, 2))
    quantiles[:, :, 0], quantiles[:, :, 2] = -1, 1
    quantiles[:, 0, 1, 0] = (0, 0.5, 0)
    assert drift(quantiles) == pytest.approx((0.25 + 0.25 + 0 + 0) / 4)
    padded = np.full((3, 1, 3, 4), np.nan)
    padded[..., :2] = quantiles
    assert drift(padded) == drift(quantiles)


def test_the_best_learning_rate_of_each_network_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    best = {"without batch norm": 0.001, "with batch norm": 0.02, "with batch norm and noise": 0.02}

    def train(
        seed: int, settings: Settings, name: str, learning_rate: float, report: Report
    ) -> Measurements:
        report(1.0, "")
        last = 0.5 if learning_rate == best[name] else math.nan
        quantiles = np.zeros((2, 1, 3, 1))
        return {"learning_rate": learning_rate, "loss": [1.0, last], "quantiles": quantiles}

    monkeypatch.setattr(covariate_shift, "_train", train)
    fractions: list[float] = []
    experiment = covariate_shift.EXPERIMENT
    measured = experiment.run(0, Settings(), lambda fraction, what: fractions.append(fraction))
    networks = measured["networks"]
    assert {name: each["learning_rate"] for name, each in networks.items()} == best
    assert fractions == pytest.approx([each / 9 for each in range(1, 10)])


@pytest.mark.soak
@pytest.mark.parametrize("name", PLANTED)
def test_a_short_run_measures_everything(name: str) -> None:
    experiment, _ = PLANTED[name]
    fractions: list[float] = []
    settings = Settings(effort=0.05)
    measured = experiment.run(0, settings, lambda fraction, what: fractions.append(fraction))
    assert fractions == sorted(fractions)
    assert all(0 <= each <= 1 for each in fractions)
    assert len([each for each in experiment.charts([measured]) if each]) >= 3
    assert experiment.table(measured)
    assert all(math.isfinite(effect.value(measured)) for effect in experiment.effects)
