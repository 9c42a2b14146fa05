"""Optimizers on functions of two variables, for many learning rates at once."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from keras_cnns.optimizers.momentum import momentum_step

_DIVERGED = 1e6
Function = Callable[[np.ndarray], np.ndarray]  # points [..., 2] -> [...] or [..., 2]


@dataclass(frozen=True)
class Method:
    """An optimizer: heavy ball or Nesterov, or gradient descent if the momentum is 0."""

    momentum: float = 0.0
    nesterov: bool = False

    @property
    def name(self) -> str:
        """Return the method's name in tables and figures."""
        if not self.momentum:
            return "gradient descent"
        return f"{'Nesterov' if self.nesterov else 'heavy ball'}, momentum {self.momentum:.4g}"


@dataclass(frozen=True)
class Best:
    """The best setting of a search."""

    steps: float  # NaN if no setting reached the goal
    learning_rate: float
    at_edge: bool  # whether a better setting may lie outside of the grid


def trajectory(
    gradient: Function, start: np.ndarray, learning_rate: float, method: Method, steps: int
) -> np.ndarray:
    """Return the points of a descent, [steps + 1, 2]."""
    points = [np.asarray(start, float)]
    velocity = np.zeros_like(points[0])
    for _ in range(steps):
        point, velocity = momentum_step(
            points[-1],
            velocity,
            gradient(points[-1]),
            learning_rate=learning_rate,
            momentum=method.momentum,
            nesterov=method.nesterov,
        )
        points.append(point)
    return np.array(points)


def find_best(
    gradient: Function,
    start: np.ndarray,
    learning_rates: np.ndarray,
    method: Method,
    reached: Function,
    max_steps: int,
) -> Best:
    """Find the learning rate that needs the fewest steps; if several do, return the largest.

    Args:
        gradient: the function's gradient, points [..., 2] -> [..., 2].
        start: the first point, [2].
        learning_rates: the learning rates in rising order, [R]; their descents run together.
        method: the optimizer.
        reached: returns whether points are at the goal, [..., 2] -> bool [...].
        max_steps: the search ends without a result after this number of steps.
    """
    rates = np.asarray(learning_rates, float)
    points = np.broadcast_to(np.asarray(start, float), (len(rates), 2))
    velocity = np.zeros_like(points)
    for step in range(max_steps + 1):
        arrived = reached(points)
        if arrived.any():
            rate = float(rates[arrived][-1])
            return Best(step, rate, rate in (learning_rates[0], learning_rates[-1]))
        # A descent that diverges never arrives; its numbers must not overflow.
        finite = np.abs(points).max(axis=-1) < _DIVERGED
        if not finite.all():
            rates, points, velocity = rates[finite], points[finite], velocity[finite]
            if not rates.size:
                break
        points, velocity = momentum_step(
            points,
            velocity,
            gradient(points),
            learning_rate=rates[:, None],
            momentum=method.momentum,
            nesterov=method.nesterov,
        )
    return Best(math.nan, math.nan, at_edge=True)
