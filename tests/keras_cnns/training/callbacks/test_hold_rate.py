"""The rate is low until the net has begun to learn, and no longer."""

import keras
import numpy as np
import pytest

from keras_cnns.training.callbacks import HoldRate
from keras_cnns.training.schedules import HeldRate


class Rates(keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[float, float]] = []  # error before a step, its rate

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        assert logs is not None
        self.seen.append((1 - logs["accuracy"], float(self.model.optimizer.learning_rate)))


def two_classes() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((2,))
    net = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(inputs))
    net.layers[-1].set_weights([np.array([[4.0, -4.0], [0.0, 0.0]]), np.zeros(2)])  # all wrong
    return net


def test_it_lets_go_when_the_error_is_low_enough() -> None:
    generator = np.random.default_rng(0)
    images = generator.normal(size=(2000, 2))
    labels = (images[:, 0] > 0).astype(int)
    model, rates = two_classes(), Rates()
    model.compile(
        keras.optimizers.SGD(HeldRate(1.0, 0.25)),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    hold = HoldRate(until_error=0.8)
    model.fit(images, labels, batch_size=20, epochs=2, callbacks=[rates, hold], verbose=0)
    low_enough = next(step for step, (error, _) in enumerate(rates.seen) if error < 0.8)
    assert low_enough > 0
    assert [rate for _, rate in rates.seen[: low_enough + 1]] == [0.25] * (low_enough + 1)
    assert {rate for _, rate in rates.seen[low_enough + 1 :]} == {1.0}

    resumed = HoldRate(until_error=0.8)
    fresh = two_classes()
    fresh.compile(keras.optimizers.SGD(HeldRate(1.0, 0.25)), "mse")
    resumed.set_model(fresh)
    fresh.optimizer.iterations.assign(model.optimizer.iterations)
    assert float(fresh.optimizer.learning_rate) == 0.25
    resumed.set_state(hold.get_state())
    assert float(fresh.optimizer.learning_rate) == 1.0


def test_it_needs_a_rate_that_can_be_held() -> None:
    model = two_classes()
    model.compile(keras.optimizers.SGD(0.1), "mse")
    with pytest.raises(ValueError, match="needs an optimizer whose learning rate is a HeldRate"):
        HoldRate().set_model(model)
