"""TensorFlow's kernels: bit for bit, in place, and what only TensorFlow has."""

import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cnns.optimizers import Momentum
from keras_cnns.optimizers import momentum as momentum_module

SHAPE, STEPS = (37, 5), 20


def run(optimizer: Momentum, *, compiled: bool = True, jit: bool | None = None) -> Any:
    generator = np.random.default_rng(0)
    weight = keras.Variable(generator.normal(size=SHAPE), dtype="float32")
    optimizer.build([weight])

    def step(gradient: tf.Tensor) -> None:
        optimizer.apply([gradient])

    step = tf.function(step, jit_compile=jit) if compiled else step
    for _ in range(STEPS):
        step(tf.constant(generator.normal(size=SHAPE), tf.float32))
    return weight.numpy(), optimizer.velocities[0].numpy()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("inside", [False, True])
def test_it_is_tensorflows_rule_bit_for_bit(inside: bool, nesterov: bool, compiled: bool) -> None:
    actual = run(Momentum(0.05, 0.9, nesterov, learning_rate_in_velocity=inside), compiled=compiled)
    generator = np.random.default_rng(0)
    weight = tf.Variable(generator.normal(size=SHAPE), dtype=tf.float32)
    velocity = tf.Variable(tf.zeros(SHAPE))
    name = "ResourceApplyKerasMomentum" if inside else "ResourceApplyMomentum"
    for _ in range(STEPS):
        getattr(tf.raw_ops, name)(
            var=weight.handle,
            accum=velocity.handle,
            lr=0.05,
            grad=tf.constant(generator.normal(size=SHAPE), tf.float32),
            momentum=0.9,
            use_nesterov=nesterov,
        )
    np.testing.assert_array_equal(actual[0], weight.numpy())
    np.testing.assert_array_equal(actual[1], velocity.numpy())


@pytest.mark.parametrize("nesterov", [False, True])
def test_it_is_tensorflow_1s_optimizer_bit_for_bit(nesterov: bool) -> None:
    actual, _ = run(Momentum(0.05, 0.9, nesterov))
    generator = np.random.default_rng(0)
    weight = tf.Variable(generator.normal(size=SHAPE), dtype=tf.float32)
    reference = tf.compat.v1.train.MomentumOptimizer(0.05, 0.9, use_nesterov=nesterov)
    for _ in range(STEPS):
        gradient = tf.constant(generator.normal(size=SHAPE), tf.float32)
        reference.apply_gradients([(gradient, weight)])
    np.testing.assert_array_equal(actual, weight.numpy())


CASES: list[dict[str, Any]] = [
    {},
    {"nesterov": True},
    {"dampening": 0.5},
    {"weight_decay": 0.1},
    {"weight_decay": 0.1, "decoupled_weight_decay": True},
    {"learning_rate_in_velocity": True},
    {"learning_rate_in_velocity": True, "nesterov": True, "weight_decay": 0.1},
    {"learning_rate_in_velocity": True, "momentum_correction": True},
    {"learning_rate_in_velocity": True, "dampening": 0.5},
]


def make(options: dict[str, Any]) -> Momentum:
    return Momentum(keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.9), **options)


@pytest.mark.parametrize("options", CASES, ids=lambda options: "-".join(options) or "plain")
def test_the_kernel_is_the_formula(options: dict[str, Any]) -> None:
    fused = run(make(options))

    def formula(variable: Any, velocity: Any, gradient: Any, *, momentum: Any, **rest: Any) -> None:
        weight, new = momentum_module.momentum_step(
            tf.convert_to_tensor(variable),
            tf.convert_to_tensor(velocity),
            gradient,
            momentum=momentum,
            **rest,
        )
        velocity.assign(new)
        variable.assign(weight)

    with mock.patch.object(momentum_module, "fused_momentum_step", formula):
        plain = run(make(options))
    for one, other in zip(fused, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_xla_compiles_it() -> None:
    for one, other in zip(run(make({}), jit=True), run(make({})), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "kernel"),
    [
        ({}, "ResourceApplyMomentum"),
        ({"nesterov": True, "weight_decay": 0.1, "dampening": 0.0}, "ResourceApplyMomentum"),
        ({"dampening": 0.5, "clipnorm": 1.0}, "ResourceApplyMomentum"),
        ({"learning_rate_in_velocity": True}, "ResourceApplyKerasMomentum"),
        (
            {"learning_rate_in_velocity": True, "momentum_correction": True},
            "ResourceApplyKerasMomentum",
        ),
        (
            {"learning_rate_in_velocity": True, "momentum_correction": True, "nesterov": True},
            None,
        ),
        ({"momentum": 0.0}, "ResourceApplyGradientDescent"),
    ],
)
def test_which_kernel_is_taken(options: dict[str, Any], kernel: str | None) -> None:
    optimizer, weight = Momentum(**options), keras.Variable([1.0, 2.0])
    optimizer.build([weight])
    graph = tf.function(lambda: optimizer.apply([tf.ones(2)])).get_concrete_function().graph
    kernels = [op.type for op in graph.get_operations() if op.type.startswith("ResourceApply")]
    assert kernels == ([kernel] if kernel else [])


def test_exclusion_takes_effect_in_a_train_function_made_anew() -> None:
    inputs = keras.Input((1,))
    model = keras.Model(inputs, keras.layers.Dense(1, use_bias=False, name="head")(inputs))
    model.compile(Momentum(1.0, momentum=0.0, weight_decay=0.5), loss="mse")
    x = np.zeros((1, 1), "float32")

    def decay() -> float:
        model.set_weights([np.ones((1, 1))])
        model.fit(x, x, verbose=0)
        return float(model.get_weights()[0].item())

    assert decay() == 0.5
    model.optimizer.exclude_from_weight_decay(var_names=["head"])
    model.make_train_function(force=True)
    assert decay() == 1.0


def test_plain_tensorflow_variables() -> None:
    ours, theirs = keras.Variable([1.0]), tf.Variable([1.0], name="theirs")
    optimizer = Momentum(0.1, momentum=0.5, weight_decay=1.0, exclude_from_weight_decay=["theirs"])
    optimizer.apply([tf.zeros(1)] * 2, [ours, theirs])
    assert [ours.numpy().item(), theirs.numpy().item()] == [pytest.approx(0.9), 1.0]
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        optimizer.apply([tf.zeros(1), None], [ours, theirs])
    assert "velocity:theirs" in optimizer._state()


def test_a_tensorflow_checkpoint(tmp_path: Path) -> None:
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    model.compile(Momentum(0.1), loss="mse")
    x, y = np.ones((1, 2)), np.zeros((1, 2))
    model.train_on_batch(x, y)
    weights = [w.numpy() for w in [*model.weights, *model.optimizer.variables]]
    checkpoint = tf.train.Checkpoint(model, optimizer=model.optimizer)
    path = checkpoint.save(tmp_path / "checkpoint")
    model.train_on_batch(x, y)
    checkpoint.restore(path).assert_consumed()
    for variable, weight in zip([*model.weights, *model.optimizer.variables], weights, strict=True):
        np.testing.assert_array_equal(variable.numpy(), weight)


def test_importing_the_optimizers_does_not_import_tensorflow() -> None:
    program = "import sys, keras_cnns.optimizers; print('tensorflow' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={"KERAS_BACKEND": "jax", "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "False"
