"""LARS against its formula."""

from typing import Any

import keras
import numpy as np
import pytest

from keras_cnns.optimizers import LARS, Momentum
from keras_cnns.optimizers.lars import trust_ratio


def lars_in_numpy(
    w: np.ndarray, gradients: Any, *, rate: float, decay: float, eta: float, nesterov: bool
) -> np.ndarray:
    """You et al. 2017, algorithm 1, word for word."""
    v = np.zeros_like(w)
    for g in gradients:
        trust = eta * np.linalg.norm(w) / (np.linalg.norm(g) + decay * np.linalg.norm(w))
        v = 0.9 * v + rate * trust * (g + decay * w)
        w = w - (0.9 * v + rate * trust * (g + decay * w) if nesterov else v)
    return w


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("nesterov", [False, True])
def test_it_is_the_formula(decay: float, nesterov: bool) -> None:
    generator = np.random.default_rng(0)
    start, gradients = generator.normal(size=(3, 4)), generator.normal(size=(20, 3, 4))
    weight = keras.Variable(start, dtype="float32", name="kernel")
    optimizer = LARS(2.0, 0.9, nesterov, weight_decay=decay, trust_coefficient=0.01)
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient, "float32")], [weight])
    expected = lars_in_numpy(start, gradients, rate=2, decay=decay, eta=0.01, nesterov=nesterov)
    np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("weight_norm", "gradient_norm", "expected"),
    [(5.0, 10.0, 0.1 * 5 / (10 + 0.2 * 5 + 1)), (0.0, 10.0, 1.0), (5.0, 0.0, 1.0)],
)
def test_the_ratio_by_hand(weight_norm: float, gradient_norm: float, expected: float) -> None:
    options = {"weight_decay": 0.2, "trust_coefficient": 0.1, "epsilon": 1.0}
    norms = (keras.ops.convert_to_tensor(norm) for norm in (weight_norm, gradient_norm))
    assert float(trust_ratio(*norms, **options)) == pytest.approx(expected)


def step(optimizer: Momentum, name: str, start: list[float], gradient: list[float]) -> list[float]:
    weight = keras.Variable(start, dtype="float32", name=name)
    optimizer.apply([keras.ops.convert_to_tensor(gradient, "float32")], [weight])
    return [round(float(x), 5) for x in weight.numpy()]


@pytest.mark.parametrize("name", ["gamma", "beta", "bias"])
def test_norms_and_biases_are_left_alone(name: str) -> None:
    optimizer = LARS(0.5, weight_decay=0.1)
    assert step(optimizer, name, [3.0, 4.0], [1.0, 0.0]) == [2.5, 4.0]


@pytest.mark.parametrize(
    ("start", "gradient", "expected"),
    [
        ([0.0, 0.0], [1.0, 2.0], [-1.0, -2.0]),  # a weight of zeros could never leave
        ([3.0, 4.0], [0.0, 0.0], [3.0, 4.0]),
        ([3.0, 4.0], [30.0, 40.0], [2.7, 3.6]),  # a step is trust_coefficient times the norm
        ([3.0, 4.0], [0.3, 0.4], [2.7, 3.6]),
    ],
)
def test_trust(start: list[float], gradient: list[float], expected: list[float]) -> None:
    assert step(LARS(1.0, trust_coefficient=0.1), "kernel", start, gradient) == expected


def test_epsilon_bounds_the_trust() -> None:
    optimizer = LARS(1.0, trust_coefficient=0.1, epsilon=1.0)
    assert step(optimizer, "kernel", [3.0, 4.0], [0.0, 1.0]) == [3.0, 3.75]


def test_decoupled_decay_is_no_part_of_the_trust() -> None:
    """w = 0.9 * (3, 4); trust = 0.1 * 4.5 / 1."""
    optimizer = LARS(1.0, weight_decay=0.1, decoupled_weight_decay=True, trust_coefficient=0.1)
    assert step(optimizer, "kernel", [3.0, 4.0], [0.0, 1.0]) == [2.7, 3.15]


def test_a_pattern_chooses_what_is_not_adapted() -> None:
    optimizer = LARS(1.0, exclude_from_layer_adaptation=["^stem"])
    assert step(optimizer, "stem_kernel", [3.0], [1.0]) == [2.0]
    with pytest.raises(
        ValueError, match="exclude_from_layer_adaptation: 'stemm' matches the path of no"
    ):
        LARS(exclude_from_layer_adaptation=["stemm"]).build([keras.Variable([0.0])])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trust_coefficient": 0.0}, "above 0"),
        ({"epsilon": -1.0}, "at least 0"),
        ({"momentum": 1.0}, "below 1"),
    ],
)
def test_wrong_arguments_say_what_is_right(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LARS(**options)
