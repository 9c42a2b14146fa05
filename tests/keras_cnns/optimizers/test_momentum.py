"""Momentum against its formula, against Keras' SGD, and as Keras' own optimizers are used."""

import doctest
from typing import Any

import keras
import numpy as np
import pytest

from keras_cnns.optimizers import Momentum, momentum


def steps(optimizer: keras.optimizers.Optimizer, gradients: list[Any], start: Any) -> np.ndarray:
    weight = keras.Variable(np.asarray(start, "float32"))
    trajectory = []
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient, "float32")], [weight])
        trajectory.append(weight.numpy())
    return np.stack(trajectory)


def test_docstring_example_is_true() -> None:
    assert doctest.testmod(momentum, extraglobs={"keras": keras}).failed == 0


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("weight_decay", [None, 0.1])
def test_it_is_the_formula(nesterov: bool, weight_decay: float | None) -> None:
    generator = np.random.default_rng(0)
    gradients = list(generator.normal(size=(20, 3)))
    start = generator.normal(size=3)
    w, v, expected = start, np.zeros(3), []
    for g in gradients:
        g = g + (weight_decay or 0) * w
        v = 0.9 * v + g
        w = w - 0.05 * (g + 0.9 * v if nesterov else v)
        expected.append(w)
    optimizer = Momentum(0.05, 0.9, nesterov, weight_decay=weight_decay)
    np.testing.assert_allclose(steps(optimizer, gradients, start), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_it_is_keras_sgd_at_a_constant_rate(nesterov: bool) -> None:
    gradients = list(np.random.default_rng(0).normal(size=(30, 5)))
    ours = Momentum(0.1, momentum=0.9, nesterov=nesterov)
    keras_sgd = keras.optimizers.SGD(0.1, momentum=0.9, nesterov=nesterov)
    np.testing.assert_allclose(
        steps(ours, gradients, np.ones(5)), steps(keras_sgd, gradients, np.ones(5)), atol=1e-5
    )


def test_a_new_learning_rate_is_felt_at_once() -> None:
    optimizer = Momentum(0.1, momentum=0.9)
    weight = keras.Variable([0.0])
    trajectory = []
    for rate in (0.1, 0.01):
        optimizer.learning_rate = rate
        optimizer.apply([keras.ops.ones(1)], [weight])
        trajectory.append(float(weight[0]))
    np.testing.assert_allclose(trajectory, [-0.1, -0.119], rtol=1e-6)


def test_configuration_round_trip() -> None:
    optimizer = Momentum(0.3, momentum=0.8, nesterov=True, weight_decay=0.01, clipnorm=1.0)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert isinstance(again, Momentum)
    assert again.get_config() == optimizer.get_config()


def test_schedules_and_clipping_work_with_it() -> None:
    schedule = keras.optimizers.schedules.ExponentialDecay(1.0, 1, 0.5)
    trajectory = steps(Momentum(schedule, momentum=0.0, clipvalue=1.0), [[5.0]] * 3, [0.0])
    np.testing.assert_allclose(trajectory[:, 0], [-1.0, -1.5, -1.75])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"momentum": -0.1}, "at least 0"),
        ({"learning_rate": 0.0}, "above 0"),
        ({"learning_rate": -1}, "above 0"),
        ({"weight_decay": -1e-4}, "weight_decay is -0.0001"),
    ],
)
def test_wrong_arguments_say_what_is_right(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Momentum(**options)
