"""Each experiment's decision on planted measurements, whose effects are known."""

import math
from collections.abc import Callable, Sequence

import pytest

from keras_cnns.lab.experiment import Effect, Measurements
from keras_cnns.lab.experiments import EXPERIMENTS
from keras_cnns.lab.verdict import Verdict, decide, decide_effect, seeds_to_decide
from tests.keras_cnns.lab.test_network_experiments import PLANTED as PLANTED_NETWORKS

NOISE = (-0.02, -0.01, 0.0, 0.01, 0.02)  # relative to the unit of the effect


def _degradation(effects: Sequence[float]) -> Measurements:
    plain, residual = effects
    last = {"plain44": plain / 100, "plain8": 0.0, "resnet8": residual / 100, "resnet44": 0.0}
    return {name: {"error": [0.9, error]} for name, error in last.items()}


def _momentum(effects: Sequence[float]) -> Measurements:
    heavy_ball, nesterov, valley = effects

    def steps(**found: float) -> Measurements:
        return {kind.replace("_", " "): {"steps": value} for kind, value in found.items()}

    return {
        "quadratic": steps(
            gradient_descent=1000.0, heavy_ball=1000 / heavy_ball, Nesterov=1000 / nesterov
        ),
        "valley": steps(gradient_descent=1000.0, heavy_ball=1000 / valley),
    }


def _saddle(effects: Sequence[float]) -> Measurements:
    quadratic, plateau = (
        {"0.0": {"steps": 1000 * effect}, "0.5": {"steps": 5000.0}, "0.9": {"steps": 1000.0}}
        for effect in effects
    )
    return {"by_condition": {"100": quadratic}, "plateau": plateau}


# name -> the measurements of one seed with the given effects, in the order of `effects`
PLANTED: dict[str, Callable[[Sequence[float]], Measurements]] = {
    "degradation": _degradation,
    "momentum": _momentum,
    "saddle": _saddle,
}


def test_every_experiment_is_planted() -> None:
    assert {*PLANTED, *PLANTED_NETWORKS} == set(EXPERIMENTS)


@pytest.mark.parametrize("name", PLANTED)
def test_planted_effects_get_all_three_verdicts(name: str) -> None:
    experiment, plant = EXPERIMENTS[name], PLANTED[name]
    smallest = [effect.min_effect for effect in experiment.effects]
    unit = [max(abs(each), 0.1) for each in smallest]

    def verdict(index: int, offset: float) -> Verdict:
        """Plant effects that are clearly large enough, except for one of them."""
        offsets = [offset if i == index else 0.5 for i in range(len(smallest))]
        noise = (0.0,) if experiment.deterministic else NOISE
        measured = [
            plant([s + (o + each) * u for s, o, u in zip(smallest, offsets, unit, strict=True)])
            for each in noise
        ]
        return decide(experiment, measured)[0]

    for index in range(len(smallest)):
        assert verdict(index, 0.5) is Verdict.SUPPORTED
        assert verdict(index, -0.5) is Verdict.NOT_SUPPORTED
        inconclusive = math.nan if experiment.deterministic else 0.0
        assert verdict(index, inconclusive) is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("values", "deterministic", "verdict"),
    [
        # The one-sided 95 % quantile of t with 4 degrees of freedom is 2.132, the standard error
        # of 1, 2, 3, 4, 5 is 0.7071: the bounds are 3 - 1.507 and 3 + 1.507.
        ((1, 2, 3, 4, 5), False, {1.49: "supported", 1.50: "inconclusive", 4.52: "not supported"}),
        ((3,), False, {-1e9: "inconclusive", 1e9: "inconclusive"}),
        ((3,), True, {2.99: "supported", 3: "not supported", 3.01: "not supported"}),
        ((math.nan,), True, {0: "inconclusive"}),
        ((1, 2, math.nan), False, {0: "inconclusive"}),
        ((2, 2, 2), False, {1.9: "supported", 2: "inconclusive", 2.1: "not supported"}),
    ],
)
def test_one_effect(
    values: tuple[float, ...], deterministic: bool, verdict: dict[float, str]
) -> None:
    for smallest, expected in verdict.items():
        effect = Effect("difference", "", smallest, lambda measured: 0.0)
        assert decide_effect(effect, values, deterministic).verdict.value == expected


def test_the_number_of_seeds_that_would_decide() -> None:
    effect = Effect("difference", "", 2.0, lambda measured: 0.0)
    undecided = decide_effect(effect, (1, 2, 3, 4, 5))
    # t(11 - 1) = 1.812: 1.812 * 1.581 / sqrt(11) = 0.864 < 1; with 8 seeds it is 1.06.
    assert seeds_to_decide(undecided) == 9
    assert seeds_to_decide(decide_effect(effect, (3,))) is None
    assert seeds_to_decide(decide_effect(effect, (1, 3))) is None


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_described(name: str) -> None:
    experiment = EXPERIMENTS[name]
    for text in ("claim", "varied", "fixed", "measured", "look_at"):
        assert getattr(experiment, text).endswith((".", "?")), text
    assert all(question.endswith((".", "?")) for question in experiment.questions)
    assert experiment.effects
    assert 0 <= experiment.fixed_seconds < experiment.seconds <= 180
