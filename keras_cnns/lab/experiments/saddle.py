"""Experiment 7: the steps to leave a saddle point, with and without momentum."""

import math
from collections.abc import Sequence

import numpy as np

from keras_cnns.lab.experiment import Effect, Experiment, Measurements, Report, Settings
from keras_cnns.lab.surfaces import Method, find_best, trajectory
from keras_cnns.optimizers.momentum import momentum_step
from keras_cnns.report import charts
from keras_cnns.report.page import Chart

# Ratios of the absolute values of the two curvatures, from 1 to 1,000.
_CONDITIONS = tuple(10 ** (exponent / 7) for exponent in range(22))
_MOMENTA = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
_DISTANCES = tuple(10.0**exponent for exponent in np.linspace(-8, -1, 22))
_CONDITION, _DISTANCE = 100, 1e-4  # the values for which the effect is measured
# Larger than `_DISTANCE`, since the gradient on a plateau is the cube of the distance.
_PLATEAU_DISTANCE = 0.1
_LEARNING_RATES = np.geomspace(0.02, 8, 240)  # learning rates multiplied by the curvature along x
_MAX_STEPS = 20_000


class Saddle:
    """The function condition x^2 / 2 - |y|^power / power, whose saddle point is (0, 0).

    With power 2, the gradient falls linearly towards the saddle point. With power 4, the saddle
    point is surrounded by a plateau.
    """

    def __init__(self, condition: float, power: int = 2) -> None:
        self.condition, self.power = condition, power

    def value(self, points: np.ndarray) -> np.ndarray:
        """Return the function's values, [..., 2] -> [...]."""
        x, y = points[..., 0], points[..., 1]
        return np.asarray(self.condition * x**2 / 2 - np.abs(y) ** self.power / self.power)

    def gradient(self, points: np.ndarray) -> np.ndarray:
        """Return the function's gradients, [..., 2] -> [..., 2]."""
        x, y = points[..., 0], points[..., 1]
        return np.stack([self.condition * x, -(y ** (self.power - 1))], axis=-1)

    def escaped(self, points: np.ndarray) -> np.ndarray:
        """Return whether the value is below that of (0, 1), [..., 2] -> bool [...]."""
        return self.value(points) < -1 / self.power


def growth(learning_rate: float, momentum: float) -> float:
    """Return the factor by which a step multiplies the distance along a curvature of -1.

    It is the larger root of r^2 - (1 + momentum + learning rate) r + momentum.
    """
    total = 1 + momentum + learning_rate
    return (total + math.sqrt(total**2 - 4 * momentum)) / 2


def _steps(saddle: Saddle, distance: float, momentum: float) -> dict[str, float]:
    """Return the smallest number of steps, and the learning rate that needs so few steps."""
    learning_rates = _LEARNING_RATES / saddle.condition
    best = find_best(
        saddle.gradient,
        np.array([1.0, distance]),
        learning_rates,
        Method(momentum),
        saddle.escaped,
        _MAX_STEPS,
    )
    return {
        "steps": math.nan if best.at_edge else best.steps,
        "learning_rate": best.learning_rate,
        "theory": math.log(1 / distance) / math.log(growth(best.learning_rate, momentum)),
    }


def _run(seed: int, settings: Settings, report: Report) -> Measurements:
    by_condition: dict[str, dict[str, dict[str, float]]] = {}
    for index, condition in enumerate(_CONDITIONS):
        report(0.4 * index / len(_CONDITIONS), f"condition number {condition:.4g}")
        by_condition[f"{condition:.4g}"] = {
            str(momentum): _steps(Saddle(condition), _DISTANCE, momentum) for momentum in _MOMENTA
        }
    report(0.4, "initial distance")
    by_distance = {
        str(momentum): [_steps(Saddle(_CONDITION), distance, momentum) for distance in _DISTANCES]
        for momentum in (0.0, 0.9)
    }
    report(0.8, "plateau")
    plateau = {
        str(momentum): _steps(Saddle(_CONDITION, 4), _PLATEAU_DISTANCE, momentum)
        for momentum in _MOMENTA
    }
    paths = {}
    for momentum in (0.0, 0.9):
        best = by_condition[str(_CONDITION)][str(momentum)]
        points = trajectory(
            Saddle(_CONDITION).gradient,
            np.array([1.0, _DISTANCE]),
            best["learning_rate"],
            Method(momentum),
            int(best["steps"]),
        )
        paths[str(momentum)] = points.tolist()
    return {
        "by_condition": by_condition,
        "by_distance": by_distance,
        "plateau": plateau,
        "paths": paths,
    }


def _gain(by_momentum: dict[str, dict[str, float]]) -> float:
    """Return the steps of gradient descent divided by the steps with the best momentum."""
    plain = by_momentum["0.0"]["steps"]
    others = [each["steps"] for momentum, each in by_momentum.items() if momentum != "0.0"]
    return plain / np.nanmin(others) if not np.isnan(others).all() else math.nan


def _charts(measurements: Sequence[Measurements]) -> list[Chart | None]:
    measured = measurements[0]
    conditions = [float(key) for key in measured["by_condition"]]
    return [
        charts.lines(
            "Steps to escape, each method with its own best learning rate",
            {
                f"momentum {momentum}": (
                    conditions,
                    [each[momentum]["steps"] for each in measured["by_condition"].values()],
                )
                for momentum in ("0.0", "0.5", "0.9", "0.99")
            },
            x="condition number: curvature across the escape divided by curvature along it",
            y="steps",
            log=True,
            log_x=True,
        ),
        charts.lines(
            f"Steps to escape by initial distance, condition number {_CONDITION}",
            {
                f"momentum {momentum}, {kind}": (_DISTANCES, [each[key] for each in row])
                for momentum, row in measured["by_distance"].items()
                for kind, key in (("measured", "steps"), ("theory", "theory"))
            },
            x="initial distance from the ridge",
            y="steps",
            log_x=True,
            points=[f"momentum {momentum}, measured" for momentum in measured["by_distance"]],
        ),
    ]


def _table(measured: Measurements) -> dict[str, dict[str, float]]:
    rows = {}
    for momentum, each in measured["by_condition"][str(_CONDITION)].items():
        rows[f"momentum {momentum}"] = {
            "steps": each["steps"],
            "steps in theory": each["theory"],
            "best learning rate": each["learning_rate"],
            "steps, equal curvatures": measured["by_condition"]["1"][momentum]["steps"],
            "steps on a plateau": measured["plateau"][momentum]["steps"],
        }
    return rows


def _findings(measurements: Sequence[Measurements]) -> list[str]:
    equal = measurements[0]["by_condition"]["1"]
    return [
        f"With equal curvatures, gradient descent needs {equal['0.0']['steps']:.0f} steps, and "
        f"gradient descent with momentum 0.9 needs {equal['0.9']['steps']:.0f}. No direction has a "
        "larger curvature that would limit the learning rate. Without momentum, gradient "
        f"descent therefore needs only {_gain(equal):.2g} times as many steps as with the best "
        "momentum."
    ]


EXPERIMENT = Experiment(
    number=7,
    name="saddle",
    claim="On an ill-conditioned surface, gradient descent with momentum leaves a saddle point in "
    "fewer steps than gradient descent without momentum, even if a plateau surrounds the saddle "
    "point.",
    source="Sutskever et al. 2013, On the importance of initialization and momentum in deep "
    "learning, section 2 (momentum divides the number of steps by the square root of the condition "
    "number)",
    varied="The momentum, the ratio of the two curvatures (the condition number), the initial "
    "distance from the ridge (the line y = 0, from which the function falls in both directions), "
    "and the surface: a quadratic saddle point, or a saddle point with a "
    "plateau around it.",
    fixed="The start point has x = 1. From the saddle point, the function rises along x and falls "
    "along y, which is the direction of the escape. Each method has its own best learning rate, "
    f"which a search over {len(_LEARNING_RATES)} learning rates finds.",
    measured="The number of steps until the value of the function is below its value at (0, 1), "
    "the point at distance 1 from the saddle point in the direction of the escape.",
    look_at="In the first figure, compare the left end, where the two curvatures are equal, with "
    "the right end. In the second figure, the axis of the distance is logarithmic: a straight line "
    "means that the distance grows exponentially with the steps, as the theory predicts.",
    larger_run="The experiment uses no random numbers and does not depend on the length of the "
    "run. Therefore, neither more seeds nor a longer run would change its numbers. The verdict "
    "would change with a condition number near 1, where gradient descent can take large steps.",
    effects=(
        Effect(
            "steps of gradient descent divided by steps with the best momentum, at condition "
            f"number {_CONDITION}",
            " times",
            2.5,  # a quarter of the square root of the condition number
            lambda measured: _gain(measured["by_condition"][str(_CONDITION)]),
        ),
        Effect(
            "steps of gradient descent divided by steps with the best momentum, if a plateau "
            "surrounds the saddle point",
            " times",
            2.5,
            lambda measured: _gain(measured["plateau"]),
        ),
    ),
    formula="v <- momentum v + gradient\nw <- w - learning rate v\n"
    "Near the saddle point, each step multiplies the distance by a factor r, which satisfies\n"
    "r^2 - (1 + momentum + learning rate curvature) r + momentum = 0.",
    implementation=(momentum_step, growth),
    questions=(
        "Why does the largest curvature limit the learning rate, and why does the smallest "
        "curvature limit the speed of the escape?",
        "Why does the number of steps grow only with the logarithm of the initial distance?",
        "How would noise in the gradient change the result if the start point were exactly on the "
        "ridge?",
    ),
    run=_run,
    charts=_charts,
    table=_table,
    findings=_findings,
    seconds=4,
    deterministic=True,
)
