import math

import numpy as np
import pytest

from keras_cnns.lab.experiments.momentum import (
    Quadratic,
    Rosenbrock,
    TwoMinima,
    best_rate,
)
from keras_cnns.lab.experiments.saddle import Saddle, growth
from keras_cnns.lab.surfaces import Method, find_best, trajectory

SURFACES = [Quadratic(30.0), Rosenbrock(), TwoMinima(), Saddle(10.0), Saddle(10.0, power=4)]


@pytest.mark.parametrize("surface", SURFACES, ids=lambda each: type(each).__name__)
def test_gradients_are_those_of_the_values(surface: Quadratic) -> None:
    points = np.random.default_rng(0).normal(size=(20, 2))
    step = 1e-6
    for axis in (0, 1):
        shift = np.eye(2)[axis] * step
        difference = (surface.value(points + shift) - surface.value(points - shift)) / (2 * step)
        np.testing.assert_allclose(
            surface.gradient(points)[:, axis], difference, rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("kind", ["gradient descent", "heavy ball", "Nesterov"])
@pytest.mark.parametrize("condition", [3.0, 50.0, 1000.0])
def test_closed_form_rates_are_reached(kind: str, condition: float) -> None:
    rate, learning_rate, momentum = best_rate(kind, condition)
    surface, method = Quadratic(condition), Method(momentum, kind == "Nesterov")
    steps = math.ceil(-100 / math.log(rate))
    points = trajectory(surface.gradient, surface.start, learning_rate, method, steps)
    distance = np.linalg.norm(points, axis=1)
    assert (distance[-1] / distance[steps // 2]) ** (1 / (steps - steps // 2)) == pytest.approx(
        rate, abs=0.07 * (1 - rate)
    )


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_the_distance_from_a_saddle_grows_as_in_theory(momentum: float) -> None:
    saddle = Saddle(10.0)
    start = np.array([0.0, 1e-9])
    points = trajectory(saddle.gradient, start, 0.1, Method(momentum), 120)
    assert points[-1, 1] / points[-2, 1] == pytest.approx(growth(0.1, momentum), rel=1e-6)


def test_the_search_finds_the_best_learning_rate() -> None:
    surface = Quadratic(10.0)

    def reached(points: np.ndarray) -> np.ndarray:
        return np.asarray(np.linalg.norm(points, axis=-1) < 1e-6)

    def search(rates: np.ndarray, max_steps: int = 1000) -> tuple[float, float, bool]:
        best = find_best(surface.gradient, surface.start, rates, Method(), reached, max_steps)
        return best.steps, best.learning_rate, best.at_edge

    rates = np.linspace(0.01, 0.3, 200)
    steps, rate, at_edge = search(rates)
    assert rate == pytest.approx(2 / 11, rel=0.02)
    assert not at_edge
    alone = trajectory(surface.gradient, surface.start, rate, Method(), int(steps))
    assert list(reached(alone)) == [False] * int(steps) + [True]
    assert search(rates[:50])[2]
    assert math.isnan(search(rates, max_steps=3)[0])
    assert math.isnan(search(np.array([5.0, 6.0]))[0])  # both diverge


def test_equal_curvatures_leave_little_to_momentum() -> None:
    # On x^2 / 2 - y^2 / 2, gradient descent escapes in ten steps: the claim needs a condition
    # number far from 1.
    saddle = Saddle(1.0)
    rates = np.geomspace(0.02, 8, 240)
    plain, heavy = (
        find_best(saddle.gradient, np.array([1.0, 1e-4]), rates, Method(m), saddle.escaped, 1000)
        for m in (0.0, 0.9)
    )
    assert plain.steps <= 10
    assert plain.steps / heavy.steps < 2
