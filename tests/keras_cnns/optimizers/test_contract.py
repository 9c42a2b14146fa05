"""Our optimizers fulfil what Keras' own tests require of optimizers and of SGD, on every backend.

The requirements are from keras/src/optimizers/optimizer_test.py, sgd_test.py,
optimizer_sparse_test.py and loss_scale_optimizer_test.py of Keras 3.15; the code is ours.
"""

import copy
import doctest
import pickle
from collections.abc import Callable
from types import ModuleType
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from keras_cnns.optimizers import LARS, Momentum, lars, momentum, schedules

BACKEND = keras.backend.backend()
ONES = [[1.0, 1.0], [1.0, 1.0]]


def tensor(values: Any) -> Any:
    return ops.convert_to_tensor(np.asarray(values, "float32"))


def numpy(value: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(value))


def variable(values: Any = ((1.0, 2.0), (3.0, 4.0)), name: str | None = None) -> keras.Variable:
    return keras.Variable(np.asarray(values, "float32"), name=name)


def close(actual: Any, expected: Any) -> None:
    np.testing.assert_allclose(numpy(actual), expected, rtol=1e-5, atol=1e-5)


def plain(**options: Any) -> Momentum:
    """Return plain gradient descent with learning rate 1, whose effects are easy to see."""
    return Momentum(1.0, momentum=0.0, **options)


@pytest.mark.parametrize("module", [momentum, lars, schedules])
def test_docstring_examples_are_true(module: ModuleType) -> None:
    result = doctest.testmod(module, extraglobs={"keras": keras})
    assert result.attempted
    assert result.failed == 0


@pytest.mark.parametrize(
    "optimizer",
    [
        Momentum(),
        Momentum(
            0.5,
            0.06,
            True,
            weight_decay=0.004,
            exclude_from_weight_decay=["norm_and_bias"],
            learning_rate_multipliers={"bias": 2.0},
            decoupled_weight_decay=True,
            clipnorm=1.0,
        ),
        Momentum(
            keras.optimizers.schedules.CosineDecay(0.1, 10),
            dampening=0.2,
            learning_rate_in_velocity=True,
            momentum_correction=True,
            use_ema=True,
            ema_momentum=0.9,
            ema_overwrite_frequency=3,
            gradient_accumulation_steps=2,
            global_clipnorm=0.5,
            loss_scale_factor=8.0,
        ),
        LARS(2.0, weight_decay=1e-4, trust_coefficient=0.01, exclude_from_layer_adaptation=["b"]),
        LARS(0.0, dampening=0.5, weight_decay=1e-4, decoupled_weight_decay=True),
    ],
)
def test_configuration_round_trip(optimizer: Momentum) -> None:
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is type(optimizer)
    assert again.get_config() == optimizer.get_config()
    for copied in (
        type(optimizer).from_config(optimizer.get_config()),
        pickle.loads(pickle.dumps(optimizer)),
        copy.deepcopy(optimizer),
    ):
        assert copied.get_config() == optimizer.get_config()


def test_the_state_has_no_more_than_it_needs() -> None:
    assert len(Momentum().variables) == 2  # iterations, learning rate
    optimizer, weight = plain(), variable()
    optimizer.apply([tensor(ONES)], [weight])
    assert len(optimizer.variables) == 2
    close(weight, [[0, 1], [2, 3]])
    close(optimizer.variables[0], 1)
    close(optimizer.variables[1], 1.0)
    optimizer = Momentum()
    optimizer.build([weight])
    assert len(optimizer.variables) == 3


def test_iterations_count_steps() -> None:
    optimizer, weight = Momentum(), variable()
    for step in range(3):
        close(optimizer.iterations, step)
        optimizer.apply_gradients([(tensor(ONES), weight)])


def test_gradients_that_are_missing() -> None:
    first, second = variable(), variable()
    with pytest.raises(ValueError, match="No gradients provided"):
        plain().apply_gradients([(None, first)])
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        plain().apply_gradients([(None, first), (tensor(ONES), second)])
    close(first, [[1, 2], [3, 4]])
    close(second, [[0, 1], [2, 3]])
    plain().apply([], [])


def test_variables_that_are_wrong() -> None:
    optimizer = Momentum()
    with pytest.raises(ValueError, match="must already be built"):
        optimizer.apply([tensor(ONES)])
    optimizer.build([variable()])
    with pytest.raises(ValueError, match="Unknown variable"):
        optimizer.apply([tensor(ONES)], [variable()])
    with pytest.raises(ValueError, match="list of 2 gradients"):
        optimizer.apply([tensor(ONES)] * 2)


@pytest.mark.parametrize(
    ("clip", "gradients", "expected"),
    [
        ({"clipvalue": 1.0}, [[100.0, -100.0], [0.5, 0.0]], [[1.0, -1.0], [0.5, 0.0]]),
        ({"clipnorm": 1.0}, [[100.0, 100.0], [0.3, 0.4]], [[0.5**0.5] * 2, [0.3, 0.4]]),
        ({"clipnorm": 1.0}, [[0.0, 0.0], [3.0, 4.0]], [[0.0, 0.0], [0.6, 0.8]]),
        ({"global_clipnorm": 6.5}, [[3.0, 4.0], [12.0, 0.0]], [[1.5, 2.0], [6.0, 0.0]]),
        ({"global_clipnorm": 1.0}, [[0.0, 0.0], [0.3, 0.4]], [[0.0, 0.0], [0.3, 0.4]]),
    ],
)
def test_clipping(clip: dict[str, Any], gradients: Any, expected: Any) -> None:
    optimizer = plain(**clip)
    for actual, value in zip(
        optimizer._clip_gradients([tensor(g) for g in gradients]), expected, strict=True
    ):
        close(actual, value)
    reference = keras.optimizers.SGD(1.0, **clip)._clip_gradients([tensor(g) for g in gradients])
    for actual, value in zip(reference, expected, strict=True):
        close(actual, value)
    weights = [variable([0.0, 0.0]), variable([0.0, 0.0])]
    optimizer.apply([tensor(g) for g in gradients], weights)
    for weight, value in zip(weights, expected, strict=True):
        close(weight, -np.asarray(value))


def test_an_infinite_norm_is_not_clipped_into_silence() -> None:
    weights = [variable([0.0]), variable([0.0])]
    plain(global_clipnorm=1.0).apply([tensor([np.inf]), tensor([1.0])], weights)
    assert all(np.isnan(numpy(weight)).all() for weight in weights)


@pytest.mark.parametrize("pair", ["clipnorm clipvalue", "clipnorm global_clipnorm"])
def test_one_way_of_clipping_at_a_time(pair: str) -> None:
    with pytest.raises(ValueError, match="Only one of"):
        plain(**dict.fromkeys(pair.split(), 0.1))


@pytest.mark.parametrize(
    "options",
    [
        {"use_ema": True, "ema_momentum": 1.5},
        {"use_ema": True, "ema_overwrite_frequency": 0.5},
        {"gradient_accumulation_steps": 1},
    ],
)
def test_invalid_values_of_keras_own_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=list(options)[-1]):
        Momentum(**options)


def test_moving_average_of_the_weights() -> None:
    weight = variable([[3.0, 4.0], [5.0, 6.0]])
    optimizer = plain(use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=3)
    w, average = np.array([[3.0, 4.0], [5.0, 6.0]]), None
    for step in range(1, 5):
        optimizer.apply([tensor(ONES)], [weight])
        w = w - 1
        average = w if average is None else 0.9 * average + 0.1 * w
        if step % 3 == 0:
            w = average
        close(weight, w)
        close(optimizer._model_variables_moving_average[0], average)


def test_moving_average_is_the_model_after_fit() -> None:
    model = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(2, kernel_initializer="ones", use_bias=False)]
    )
    optimizer = Momentum(0.1, momentum=0.0, use_ema=True, ema_momentum=0.9)
    model.compile(optimizer, loss="mse")
    model.fit(np.ones((1, 1)), np.zeros((1, 1)), batch_size=1, epochs=2, verbose=0)
    close(model.trainable_variables[0], [[0.891, 0.891]])  # 0.9 * 0.9 + 0.1 * (0.9 - 0.1 * 0.9)
    model.fit(np.ones((1, 1)), np.zeros((1, 1)), epochs=2, verbose=0)  # training may continue
    assert numpy(model.trainable_variables[0]).max() < 0.891


def test_constraints_are_applied() -> None:
    weight = variable([-1.0, 1.0])
    weight.constraint = keras.constraints.NonNeg()
    Momentum().apply([tensor([0.0, 0.0])], [weight])
    close(weight, [0, 1])


def test_static_loss_scaling() -> None:
    optimizer, weight = plain(loss_scale_factor=1024.0), variable()
    optimizer.apply([tensor([[1.0, 2.0], [3.0, 4.0]]) * 1024.0], [weight])
    close(optimizer.scale_loss(1.0), 1024.0)
    close(weight, [[0, 0], [0, 0]])


@pytest.mark.parametrize("clip", [{}, {"global_clipnorm": 1.0}])
def test_dynamic_loss_scaling(clip: dict[str, Any]) -> None:
    inner, reference = Momentum(0.1, **clip), Momentum(0.1, **clip)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0)
    weight, expected = variable(), variable()
    optimizer.build([weight])
    reference.build([expected])
    for gradient, scale in ([1.0, 8.0], [np.inf, 8.0], [2.0, 4.0]):
        close(optimizer.scale_loss(1.0), scale)
        apply(optimizer, [tensor(ONES) * gradient * scale], [weight])
        if np.isfinite(gradient):
            apply(reference, [tensor(ONES) * gradient], [expected])
        close(weight, numpy(expected))
    close(inner.iterations, 2)


def apply(optimizer: Any, gradients: list[Any], weights: list[keras.Variable]) -> None:
    """Make a step as the backend's `fit` does it: stateless on JAX."""
    if BACKEND != "jax":
        optimizer.apply(gradients, weights)
        return
    values, state = optimizer.stateless_apply(
        [v.value for v in optimizer.variables], gradients, [w.value for w in weights]
    )
    for target, value in zip([*weights, *optimizer.variables], [*values, *state], strict=True):
        target.assign(value)


def test_mixed_precision_trains() -> None:
    inputs = keras.Input((3,))
    outputs = keras.layers.Dense(1, dtype="mixed_float16", kernel_initializer="ones")(inputs)
    model = keras.Model(inputs, outputs)
    optimizer = keras.optimizers.LossScaleOptimizer(Momentum(0.01, weight_decay=1e-4))
    model.compile(optimizer, loss="mse")
    x, y = np.ones((8, 3), "float32"), np.zeros((8, 1), "float32")
    losses = model.fit(x, y, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert numpy(optimizer.inner_optimizer.velocities[0]).dtype == np.float32


def test_set_weights() -> None:
    weight, first, second = variable(), Momentum(), Momentum()
    first.apply([tensor(ONES)], [weight])
    with pytest.raises(ValueError, match="You are calling"):
        second.set_weights(first.variables)
    second.build([weight])
    second.set_weights(first.variables)
    for one, other in zip(first.variables, second.variables, strict=True):
        close(one, numpy(other))


def test_gradient_accumulation() -> None:
    optimizer, weight = plain(gradient_accumulation_steps=3), variable()
    kept = [1, 2, 0, 1]  # values of the accumulator after each step
    for step, value in enumerate(kept, start=1):
        optimizer.apply([tensor(ONES)], [weight])
        close(optimizer._accumulated_gradients[0], np.full((2, 2), value))
        close(optimizer._iterations, step)
        close(optimizer.iterations, step // 3)
        close(weight, np.array([[1, 2], [3, 4]]) - (step >= 3))


@pytest.mark.parametrize(
    "options",
    [
        {"weight_decay": 0.05, "dampening": 0.5},
        {"weight_decay": 0.05, "decoupled_weight_decay": True},
        {"global_clipnorm": 0.1},
        {"learning_rate_in_velocity": True, "momentum_correction": True},
    ],
)
def test_accumulated_steps_are_one_step_with_the_mean(options: dict[str, Any]) -> None:
    optimizers = Momentum(0.1, **options), Momentum(0.1, gradient_accumulation_steps=3, **options)
    weights = variable([[0.9], [0.5]]), variable([[0.9], [0.5]])
    generator = np.random.default_rng(0)
    for rate in (0.1, 0.05, 0.02):
        gradients = generator.random((3, 2, 1))
        for optimizer in optimizers:
            optimizer.learning_rate = rate
        optimizers[0].apply([tensor(gradients.mean(axis=0))], [weights[0]])
        for gradient in gradients:
            optimizers[1].apply([tensor(gradient)], [weights[1]])
    close(weights[1], numpy(weights[0]))


def test_the_learning_rate_may_be_a_callable() -> None:
    optimizer, weight = Momentum(lambda: 0.1, momentum=0.0), variable()
    optimizer.apply([tensor(ONES)], [weight])
    close(weight, [[0.9, 1.9], [2.9, 3.9]])


def test_setting_a_schedule_forgets_the_rate() -> None:
    optimizer = Momentum(0.001)
    assert len(optimizer.variables) == 2
    optimizer.learning_rate = keras.optimizers.schedules.PolynomialDecay(0.001, 4)
    assert len(optimizer.variables) == 1
    with pytest.raises(TypeError, match="not settable"):
        optimizer.learning_rate = 0.1


@pytest.mark.parametrize("accumulation", [None, 2])
def test_variables_that_their_gradient_overwrites(accumulation: int | None) -> None:
    overwritten, trained = variable(), variable()
    overwritten.overwrite_with_gradient = True
    optimizer = Momentum(1.0, gradient_accumulation_steps=accumulation)
    assert optimizer.momentum == 0.9
    for gradient in (1.0, 2.0) if accumulation else (2.0,):
        optimizer.apply([tensor(ONES) * gradient] * 2, [overwritten, trained])
    close(overwritten, np.full((2, 2), 2.0))
    close(trained, np.array([[1, 2], [3, 4]]) - (1.5 if accumulation else 2.0))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_weights_of_other_types(dtype: str) -> None:
    if BACKEND == "jax" and dtype == "float64":
        dtype = "float32"  # by default, JAX has no float64
    weight = keras.Variable(np.ones(3), dtype=dtype)
    optimizer = Momentum(
        0.5, weight_decay=0.5, dampening=0.5, clipnorm=100.0, learning_rate_multipliers={".": 0.5}
    )
    optimizer.apply([ops.ones(3, dtype=dtype)], [weight])
    assert keras.backend.standardize_dtype(weight.dtype) == dtype
    close(ops.cast(weight, "float32"), np.full(3, 1 - 0.25 * 1.5))
    assert keras.backend.standardize_dtype(optimizer.velocities[0].dtype) == dtype


def sparse(rows: Any, indices: list[int], shape: tuple[int, ...]) -> Any:
    """Return a gradient that has rows: the form in which an embedding gets it; dense on torch."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.IndexedSlices(tensor(rows), tf.constant(indices), tf.constant(shape))
    if BACKEND == "jax":
        from jax.experimental.sparse import BCOO

        return BCOO((tensor(rows), np.array(indices)[:, None]), shape=shape)
    dense = np.zeros(shape)
    np.add.at(dense, indices, rows)
    return tensor(dense)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Momentum(0.1, momentum=0.0),
        lambda: Momentum(0.1),
        lambda: Momentum(0.1, nesterov=True, weight_decay=0.1),
        lambda: Momentum(0.1, learning_rate_in_velocity=True),
        lambda: Momentum(0.1, clipvalue=0.5),
        lambda: Momentum(0.1, clipnorm=0.5),
        lambda: Momentum(0.1, global_clipnorm=0.5),
        lambda: Momentum(0.1, loss_scale_factor=2.0),
        lambda: Momentum(0.1, gradient_accumulation_steps=2),
        lambda: LARS(),
    ],
)
def test_sparse_gradients_are_their_dense_selves(make: Callable[[], Momentum]) -> None:
    one, other = variable(np.ones((5, 2))), variable(np.ones((5, 2)))
    optimizers = make(), make()
    for optimizer, weight in zip(optimizers, (one, other), strict=True):
        optimizer.build([weight])
    for step in range(4):
        rows = np.full((3, 2), 10.0 - step)
        dense = np.zeros((5, 2))
        np.add.at(dense, [0, 2, 2], rows)  # a row that comes twice counts twice
        apply(optimizers[0], [sparse(rows, [0, 2, 2], (5, 2))], [one])
        apply(optimizers[1], [tensor(dense)], [other])
    close(one, numpy(other))


def test_an_embedding_trains() -> None:
    model = keras.Sequential(
        [keras.Input((2,), dtype="int32"), keras.layers.Embedding(7, 1), keras.layers.Flatten()]
    )
    model.compile(Momentum(0.1), loss="mse")
    x, y = np.array([[1, 1], [2, 3]]), np.ones((2, 2))
    losses = model.fit(x, y, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_stateless_apply() -> None:
    optimizer, weight = Momentum(0.1), variable()
    with pytest.raises(
        ValueError, match="must be built" if BACKEND != "tensorflow" else "not supp"
    ):
        optimizer.stateless_apply([], [tensor(ONES)], [weight])
    optimizer.build([weight])
    arguments = [v.value for v in optimizer.variables], [tensor(ONES)], [weight.value]
    if BACKEND == "tensorflow":
        with pytest.raises(ValueError, match="not supported"):
            optimizer.stateless_apply(*arguments)
        return
    weights, state = optimizer.stateless_apply(*arguments)
    close(weight, [[1, 2], [3, 4]])
    close(weights[0], [[0.9, 1.9], [2.9, 3.9]])
    close(state[0], 1)
    close(state[2], ONES)


def test_a_compiled_step_is_the_eager_one() -> None:
    optimizer = Momentum(
        keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5),
        dampening=0.1,
        weight_decay=0.1,
        learning_rate_in_velocity=True,
        momentum_correction=True,
        use_ema=True,
        gradient_accumulation_steps=2,
        global_clipnorm=1.0,
    )
    eager = Momentum.from_config(optimizer.get_config())
    weight, expected = variable(), variable()
    optimizer.build([weight])
    if BACKEND == "jax":
        import jax

        step = jax.jit(optimizer.stateless_apply)
        values, state = [weight.value], [v.value for v in optimizer.variables]
        for _ in range(4):
            values, state = step(state, [tensor(ONES)], values)
        weight.assign(values[0])
    elif BACKEND == "tensorflow":
        import tensorflow as tf

        compiled = tf.function(lambda: optimizer.apply([tensor(ONES)]))
        for _ in range(4):
            compiled()
    else:
        for _ in range(4):
            optimizer.apply([tensor(ONES)], [weight])
    for _ in range(4):
        eager.apply([tensor(ONES)], [expected])
    close(weight, numpy(expected))
    assert not np.allclose(numpy(weight), [[1, 2], [3, 4]])


def test_names() -> None:
    assert Momentum().name == "momentum"
    assert Momentum(name="mine").get_config()["name"] == "mine"


def test_fit_finds_the_line() -> None:
    x = np.linspace(-1, 1, 64)[:, None].astype("float32")
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(Momentum(0.1, nesterov=True), loss="mse")
    model.fit(x, 3 * x - 1, epochs=15, batch_size=8, verbose=0)
    kernel, bias = model.get_weights()
    np.testing.assert_allclose([kernel.item(), bias.item()], [3, -1], atol=0.05)
