"""Momentum: its formula, the references it must equal, and each of its options.

Runs on every backend: `test_elsewhere.py` repeats it on JAX, tests/parity on torch.
"""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_cnns.optimizers import Momentum
from keras_cnns.optimizers.momentum import momentum_step

GOLDEN = json.loads(Path(__file__).with_name("golden_torch_sgd.json").read_text("utf-8"))


def steps(
    optimizer: keras.optimizers.Optimizer, gradients: Any, start: Any, rates: Any = ()
) -> np.ndarray:
    """Return the weights after each step."""
    weight = keras.Variable(np.asarray(start, "float32"), name="weight")
    trajectory = []
    for i, gradient in enumerate(gradients):
        if len(rates):
            optimizer.learning_rate = rates[i]
        optimizer.apply([keras.ops.convert_to_tensor(gradient, "float32")], [weight])
        trajectory.append(keras.ops.convert_to_numpy(weight))
    return np.stack(trajectory)


def some_gradients(count: int, size: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, size)).astype("float32")


@pytest.mark.parametrize(
    ("options", "velocity", "weight"),
    [
        # v = 2, g = 3, w = 10, learning rate 0.1, momentum 0.5; computed by hand
        ({}, 4.0, 10 - 0.4),
        ({"nesterov": True}, 4.0, 10 - 0.1 * (3 + 2)),
        ({"dampening": 0.5}, 2.5, 10 - 0.25),
        ({"learning_rate_in_velocity": True}, 1 - 0.3, 10 + 0.7),
        ({"learning_rate_in_velocity": True, "nesterov": True}, 0.7, 10 - 0.3 + 0.35),
        ({"learning_rate_in_velocity": True, "dampening": 0.5}, 1 - 0.15, 10.85),
        ({"learning_rate_in_velocity": True, "correction": 0.1}, 0.1 - 0.3, 9.8),
    ],
)
def test_the_step_by_hand(options: dict[str, Any], velocity: float, weight: float) -> None:
    result = momentum_step(10.0, 2.0, 3.0, learning_rate=0.1, momentum=0.5, **options)
    np.testing.assert_allclose(result, (weight, velocity), rtol=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("weight_decay", [None, 0.1])
def test_it_is_the_formula(nesterov: bool, inside: bool, weight_decay: float | None) -> None:
    gradients = some_gradients(20)
    w, v, expected = np.ones(3), np.zeros(3), []
    for g in gradients.astype("float64"):
        w, v = momentum_step(
            w,
            v,
            g + (weight_decay or 0) * w,
            learning_rate=0.05,
            momentum=0.9,
            nesterov=nesterov,
            learning_rate_in_velocity=inside,
        )
        expected.append(w)
    optimizer = Momentum(
        0.05, 0.9, nesterov, weight_decay=weight_decay, learning_rate_in_velocity=inside
    )
    np.testing.assert_allclose(
        steps(optimizer, gradients, np.ones(3)), expected, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("mu", [0.0, 0.9])
def test_it_is_keras_sgd_at_a_constant_rate(inside: bool, nesterov: bool, mu: float) -> None:
    gradients, start = some_gradients(30, 5), np.ones(5)
    ours = Momentum(0.1, mu, nesterov, learning_rate_in_velocity=inside)
    reference = keras.optimizers.SGD(0.1, momentum=mu, nesterov=nesterov)
    np.testing.assert_allclose(
        steps(ours, gradients, start), steps(reference, gradients, start), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize(
    ("options", "reference"),
    [
        ({"learning_rate_in_velocity": True}, {}),
        (
            {
                "learning_rate_in_velocity": True,
                "decoupled_weight_decay": True,
                "weight_decay": 0.1,
                "nesterov": True,
            },
            {"weight_decay": 0.1, "nesterov": True},
        ),
    ],
)
def test_inside_it_is_keras_sgd_at_any_rate(
    options: dict[str, Any], reference: dict[str, Any]
) -> None:
    gradients, rates = some_gradients(30), np.linspace(0.1, 0.001, 30)
    np.testing.assert_allclose(
        steps(Momentum(0.1, **options), gradients, np.ones(3), rates),
        steps(keras.optimizers.SGD(0.1, 0.9, **reference), gradients, np.ones(3), rates),
        rtol=1e-6,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    "case",
    GOLDEN["cases"],
    ids=lambda c: "-".join(f"{v:g}" for k, v in c.items() if k != "weights"),
)
def test_it_is_torch_sgd_over_50_steps(case: dict[str, Any]) -> None:
    options = {name: value for name, value in case.items() if name != "weights"}
    trajectory = steps(Momentum(**options), GOLDEN["gradients"], GOLDEN["start"], GOLDEN["rates"])
    kept = trajectory[np.array(GOLDEN["kept"]) - 1]
    np.testing.assert_allclose(kept, case["weights"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [-0.1, -0.119]),
        ({"learning_rate_in_velocity": True}, [-0.1, -0.200]),
        ({"learning_rate_in_velocity": True, "momentum_correction": True}, [-0.1, -0.119]),
    ],
)
def test_where_the_rate_stands(options: dict[str, Any], expected: list[float]) -> None:
    trajectory = steps(Momentum(0.1, 0.9, **options), [[1.0]] * 2, [0.0], [0.1, 0.01])
    np.testing.assert_allclose(trajectory[:, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_corrected_rate_inside_is_the_rate_outside(nesterov: bool) -> None:
    gradients, rates = some_gradients(30), np.geomspace(0.01, 1, 30)
    outside = Momentum(0.1, 0.9, nesterov)
    inside = Momentum(0.1, 0.9, nesterov, learning_rate_in_velocity=True, momentum_correction=True)
    np.testing.assert_allclose(
        steps(inside, gradients, np.ones(3), rates),
        steps(outside, gradients, np.ones(3), rates),
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_warmup_from_zero_does_not_divide_by_it() -> None:
    optimizer = Momentum(0.1, learning_rate_in_velocity=True, momentum_correction=True)
    trajectory = steps(optimizer, [[1.0]] * 3, [0.0], [0.0, 0.1, 0.1])
    np.testing.assert_allclose(trajectory[:, 0], [0.0, -0.1, -0.29], rtol=1e-6)


def test_decoupled_decay_is_beside_the_velocity() -> None:
    zero = [[0.0]] * 2
    decoupled = Momentum(0.1, 0.9, weight_decay=0.5, decoupled_weight_decay=True)
    np.testing.assert_allclose(steps(decoupled, zero, [1.0])[:, 0], [0.95, 0.95**2], rtol=1e-6)
    coupled = Momentum(0.1, 0.9, weight_decay=0.5)
    w1 = 1 - 0.1 * 0.5
    w2 = w1 - 0.1 * (0.9 * 0.5 + 0.5 * w1)
    np.testing.assert_allclose(steps(coupled, zero, [1.0])[:, 0], [w1, w2], rtol=1e-6)


NAMES = ("conv/kernel", "conv/bias", "conv_bn/gamma", "conv_bn/beta", "bias_free/kernel")


def variables() -> list[keras.Variable]:
    """Return a weight of 1 for each of NAMES, with that path."""
    result = []
    for name in NAMES:
        scope, _, leaf = name.partition("/")
        with keras.name_scope(scope):
            result.append(keras.Variable([1.0], name=leaf))
    assert [variable.path for variable in result] == list(NAMES)
    return result


def moved(optimizer: Momentum, weights: list[keras.Variable], gradient: float = 0.0) -> list[float]:
    before = [w.numpy().item() for w in weights]
    optimizer.apply([keras.ops.ones(1) * gradient for _ in weights], weights)
    return [round(w.numpy().item() - x, 5) for w, x in zip(weights, before, strict=True)]


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize(
    ("patterns", "decayed"),
    [
        ([], [1, 1, 1, 1, 1]),
        (["norm_and_bias"], [1, 0, 0, 0, 1]),
        (["bias"], [1, 0, 1, 1, 0]),
        (["/bias$"], [1, 0, 1, 1, 1]),
        (["^bias$"], [1, 0, 1, 1, 1]),  # the name, as Keras matches
        (["^conv/"], [0, 0, 1, 1, 1]),
        (["gamma", "beta"], [1, 1, 0, 0, 1]),
    ],
)
def test_exclusion_from_weight_decay(
    patterns: list[str], decayed: list[int], decoupled: bool
) -> None:
    expected = [-0.05 * flag for flag in decayed]
    options: dict[str, Any] = {"weight_decay": 0.5, "decoupled_weight_decay": decoupled}
    optimizer = Momentum(0.1, exclude_from_weight_decay=patterns, **options)
    assert moved(optimizer, variables()) == expected

    before = Momentum(0.1, **options)
    before.exclude_from_weight_decay(var_names=patterns)
    assert moved(before, variables()) == expected

    after, weights = Momentum(0.1, **options), variables()
    after.build(weights)
    after.exclude_from_weight_decay(var_names=patterns)
    assert moved(after, weights) == expected
    again = Momentum.from_config(after.get_config())
    assert moved(again, variables()) == expected


def test_exclusion_by_variable_and_its_repeal_between_steps() -> None:
    optimizer, weights = Momentum(0.1, 0.0, weight_decay=0.5), variables()
    assert moved(optimizer, weights) == [-0.05] * 5
    optimizer.exclude_from_weight_decay(var_list=weights[:2])
    assert [x == 0 for x in moved(optimizer, weights)] == [True, True, False, False, False]
    optimizer.exclude_from_weight_decay()
    assert 0 not in moved(optimizer, weights)


@pytest.mark.parametrize(
    ("multipliers", "factors"),
    [
        ({}, [1, 1, 1, 1, 1]),
        ({"/bias$": 2.0}, [1, 2, 1, 1, 1]),
        ({"norm_and_bias": 0.0}, [1, 0, 0, 0, 1]),
        ({"^conv/": 10, "/bias$": 2.0}, [10, 20, 1, 1, 1]),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_learning_rate_multipliers(
    multipliers: dict[str, float], factors: list[float], inside: bool
) -> None:
    optimizer = Momentum(
        0.01, learning_rate_multipliers=multipliers, learning_rate_in_velocity=inside
    )
    assert moved(optimizer, variables(), 1.0) == [round(-0.01 * f, 5) for f in factors]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"momentum": -0.1}, "at least 0"),
        ({"momentum": 2.0}, "below 1"),
        ({"momentum": float("nan")}, "momentum is nan"),
        ({"learning_rate": -1}, "learning_rate is -1; it must be at least 0"),
        ({"learning_rate": float("inf")}, "finite"),
        ({"learning_rate": "fast"}, "should be float"),
        ({"weight_decay": -1e-4}, "weight_decay is -0.0001"),
        ({"dampening": 1.5}, "dampening is 1.5"),
        ({"dampening": 0.5, "nesterov": True}, "nesterov=False"),
        ({"dampening": 0.5, "momentum": 0.0}, "momentum above 0"),
        ({"momentum_correction": True}, "learning_rate_in_velocity=True"),
        ({"learning_rate_multipliers": {"bias": -1.0}}, "the factor for 'bias' is -1.0"),
        ({"learning_rate_multipliers": {"(": 1.0}}, r"'\(' is not a valid regular expression"),
        ({"exclude_from_weight_decay": "bias"}, "must be a list"),
        ({"exclude_from_weight_decay": ["["]}, r"'\[' is not a valid regular expression"),
        ({"decay_weight": 0.1}, "not recognized"),
    ],
)
def test_wrong_arguments_say_what_is_right(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Momentum(**options)


def test_a_pattern_that_means_nothing_is_an_error() -> None:
    for option in (
        {"exclude_from_weight_decay": ["biass"]},
        {"learning_rate_multipliers": {"biass": 2}},
    ):
        with pytest.raises(
            ValueError, match=r"'biass' matches the path of no variable; .*conv/bias"
        ):
            Momentum(**option).build(variables())
    optimizer = Momentum()
    optimizer.build(variables())
    with pytest.raises(ValueError, match="biass"):
        optimizer.exclude_from_weight_decay(var_names=["biass"])
    Momentum(exclude_from_weight_decay=["norm_and_bias"]).build(variables()[:1])  # the word may


def test_a_schedule_is_followed() -> None:
    schedule = keras.optimizers.schedules.ExponentialDecay(1.0, 1, 0.5)
    trajectory = steps(Momentum(schedule, momentum=0.0, clipvalue=1.0), [[5.0]] * 3, [0.0])
    np.testing.assert_allclose(trajectory[:, 0], [-1.0, -1.5, -1.75])
