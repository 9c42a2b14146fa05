"""Decide whether measurements support a claim."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy import stats

from keras_cnns.lab.experiment import Effect, Experiment, Measurements

CONFIDENCE = 0.95  # confidence level of each one-sided bound


class Verdict(StrEnum):
    """The result of the measurements for a claim."""

    SUPPORTED = "supported"
    NOT_SUPPORTED = "not supported"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Decision:
    """The verdict on one effect, and the numbers that it follows from."""

    effect: Effect
    values: tuple[float, ...]  # one for each seed
    mean: float
    low: float  # one-sided lower bound
    high: float  # one-sided upper bound
    verdict: Verdict


def decide_effect(effect: Effect, values: Sequence[float], deterministic: bool = False) -> Decision:
    """Decide whether an effect is supported, by one-sided t bounds of its mean over the seeds.

    The effect is supported if the lower bound exceeds the smallest effect that counts, and not
    supported if the upper bound is below it. With fewer than two seeds, the bounds are infinite.
    For a deterministic value, both bounds are the value itself. If a value is NaN, the verdict is
    inconclusive: NaN means that the best setting lies at the edge of the searched range.
    """
    array = np.asarray(values, float)
    mean = float(array.mean())
    if deterministic:
        low = high = mean
    elif len(array) < 2 or not np.isfinite(array).all():
        low, high = -math.inf, math.inf
    else:
        quantile = float(stats.t.ppf(CONFIDENCE, len(array) - 1))
        margin = quantile * float(array.std(ddof=1)) / math.sqrt(len(array))
        low, high = mean - margin, mean + margin
    if low > effect.min_effect:
        verdict = Verdict.SUPPORTED
    elif high < effect.min_effect or (deterministic and high == effect.min_effect):
        verdict = Verdict.NOT_SUPPORTED
    else:
        verdict = Verdict.INCONCLUSIVE
    return Decision(effect, tuple(map(float, array)), mean, low, high, verdict)


def decide(
    experiment: Experiment, measurements: Sequence[Measurements]
) -> tuple[Verdict, list[Decision]]:
    """Return the verdict on a claim and the decisions on its effects.

    The claim is supported if all effects are supported, and not supported if at least one effect is
    not supported. Otherwise, the verdict is inconclusive. No correction for multiple tests is
    needed, because all tests must succeed.

    Args:
        experiment: the claim and its effects.
        measurements: the measurements of each seed; at least one.
    """
    decisions = [
        decide_effect(
            effect, [effect.value(each) for each in measurements], experiment.deterministic
        )
        for effect in experiment.effects
    ]
    verdicts = {decision.verdict for decision in decisions}
    for verdict in (Verdict.NOT_SUPPORTED, Verdict.INCONCLUSIVE):
        if verdict in verdicts:
            return verdict, decisions
    return Verdict.SUPPORTED, decisions


def seeds_to_decide(decision: Decision) -> int | None:
    """Return how many seeds would decide about an effect, if mean and deviation stay the same.

    Returns:
        The number; None if it is above a thousand, or if there is only one seed and therefore no
        standard deviation.
    """
    values = np.asarray(decision.values)
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    distance = abs(decision.mean - decision.effect.min_effect)
    deviation = float(values.std(ddof=1))
    for seeds in range(len(values) + 1, 1001):
        if float(stats.t.ppf(CONFIDENCE, seeds - 1)) * deviation / math.sqrt(seeds) < distance:
            return seeds
    return None
