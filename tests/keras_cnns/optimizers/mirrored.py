"""Two replicas against one device; `test_mirrored.py` runs this in a process of its own.

TensorFlow divides a CPU in two only before it starts.
"""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cnns.optimizers import LARS, Momentum

STEPS, BATCH = 10, 8


@pytest.fixture(scope="module")
def strategy() -> tf.distribute.Strategy:
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], two)
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def make_data() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(STEPS, BATCH, 4)).astype("float32")
    y = generator.normal(size=(STEPS, BATCH, 3)).astype("float32")
    y[:, : BATCH // 2] *= 100  # the first replica's gradients differ from the second's
    return x, y


def train(optimizer: keras.optimizers.Optimizer) -> dict[str, np.ndarray]:
    """Make ten steps of a linear regression, on all replicas of the strategy in scope."""
    strategy = tf.distribute.get_strategy()
    replicas = strategy.num_replicas_in_sync
    generator = np.random.default_rng(1)
    kernel = keras.Variable(generator.normal(size=(4, 3)), dtype="float32", name="kernel")
    bias = keras.Variable(generator.normal(size=3), dtype="float32", name="bias")
    optimizer.build([kernel, bias])

    def step(x: tf.Tensor, y: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            prediction = x @ kernel.value + bias.value
            loss = optimizer.scale_loss(tf.reduce_sum((prediction - y) ** 2) / BATCH)
        optimizer.apply(tape.gradient(loss, [kernel.value, bias.value]))

    @tf.function
    def run(x: Any, y: Any) -> None:
        strategy.run(step, args=(x, y))

    def share(batch: np.ndarray) -> Any:
        shares = np.split(batch, replicas)
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(shares[context.replica_id_in_sync_group])
        )

    for x, y in zip(*make_data(), strict=True):
        run(share(x), share(y))
    for variable in [kernel, bias, *optimizer.variables]:
        copies = [copy.numpy() for copy in strategy.experimental_local_results(variable.value)]
        assert len(copies) == replicas
        np.testing.assert_array_equal(copies[0], copies[-1], err_msg=variable.path)
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    state = {name: variable.numpy() for name, variable in inner._state().items()}
    return {"kernel": kernel.numpy(), "bias": bias.numpy()} | state


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Momentum, {}),
        (Momentum, {"momentum": 0.0, "clipvalue": 0.1}),
        (Momentum, {"nesterov": True, "weight_decay": 0.1, "exclude_from_weight_decay": ["bias"]}),
        (
            Momentum,
            {
                "weight_decay": 0.1,
                "decoupled_weight_decay": True,
                "learning_rate_multipliers": {"bias": 2.0},
            },
        ),
        (
            Momentum,
            {"learning_rate_in_velocity": True, "momentum_correction": True, "nesterov": True},
        ),
        (Momentum, {"clipnorm": 0.1, "dampening": 0.5}),
        (Momentum, {"global_clipnorm": 0.1}),
        (Momentum, {"use_ema": True, "ema_overwrite_frequency": 3}),
        (Momentum, {"gradient_accumulation_steps": 2, "dampening": 0.5}),
        (
            Momentum,
            {
                "gradient_accumulation_steps": 2,
                "global_clipnorm": 0.1,
                "use_ema": True,
                "learning_rate_in_velocity": True,
                "momentum_correction": True,
            },
        ),
        (LARS, {"weight_decay": 0.1}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "-".join(value) or "plain",
)
def test_two_replicas_are_one_device(
    strategy: tf.distribute.Strategy, kind: type[Momentum], options: dict[str, Any]
) -> None:
    def make() -> Momentum:
        schedule = keras.optimizers.schedules.ExponentialDecay(0.05, 2, 0.5)
        return kind(schedule, **options)

    expected = train(make())
    with strategy.scope():
        actual = train(make())
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_fit_and_evaluate(strategy: tf.distribute.Strategy) -> None:
    def fit() -> list[np.ndarray]:
        images = keras.Input((4,))
        model = keras.Model(
            images, keras.layers.Dense(3, name="head", kernel_initializer="ones")(images)
        )
        optimizer = Momentum(
            0.05, global_clipnorm=1.0, use_ema=True, gradient_accumulation_steps=2, weight_decay=0.1
        )
        model.compile(optimizer, loss="mse")
        x, y = (data.reshape(-1, data.shape[-1]) for data in make_data())
        model.fit(x, y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
        return [*model.get_weights(), np.asarray(model.evaluate(x, y, verbose=0))]

    expected = fit()
    with strategy.scope():
        actual = fit()
    for one, two in zip(expected, actual, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-6)


def test_loss_scaling(strategy: tf.distribute.Strategy) -> None:
    def make() -> keras.optimizers.Optimizer:
        return keras.optimizers.LossScaleOptimizer(Momentum(0.05, clipnorm=0.1))

    expected = train(make())
    with strategy.scope():
        actual = train(make())
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_apply_outside_of_a_replica_says_where_to_call_it(
    strategy: tf.distribute.Strategy,
) -> None:
    with strategy.scope():
        optimizer, weight = Momentum(), keras.Variable([0.0])
        with pytest.raises(ValueError, match=r"strategy\.run"):
            optimizer.apply([tf.ones(1)], [weight])


def test_exclusion_and_a_plain_tensorflow_variable(strategy: tf.distribute.Strategy) -> None:
    with strategy.scope():
        optimizer = Momentum(1.0, momentum=0.5, weight_decay=0.25)
        decayed, kept = keras.Variable(2.0), tf.Variable(2.0, name="kept")
        optimizer.build([decayed, kept])
        optimizer.exclude_from_weight_decay(var_list=[kept])
        strategy.run(lambda: optimizer.apply([tf.zeros(()), tf.zeros(())], [decayed, kept]))
    assert [float(decayed.numpy()), float(kept.numpy())] == [1.5, 2.0]
