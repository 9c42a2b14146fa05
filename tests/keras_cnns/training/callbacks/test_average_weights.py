"""Averaged weights at evaluation, with the statistics that belong to them."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_cnns.optimizers import Momentum
from keras_cnns.training.callbacks import AverageWeights, SaveBest

DECAY = 0.5


class Record(keras.callbacks.Callback):
    """Keep the weights after each training batch, as they are in an evaluation, and as saved."""

    def __init__(self) -> None:
        super().__init__()
        self.trained: list[list[np.ndarray]] = []
        self.evaluated: list[list[np.ndarray]] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.trained.append(self.model.get_weights())

    def on_test_end(self, logs: Any = None) -> None:
        self.evaluated.append(self.model.get_weights())


def make_model(optimizer: Any) -> keras.Model:
    inputs = keras.Input((3,))
    x = keras.layers.Dense(4, kernel_initializer="ones", name="hidden")(inputs)
    x = keras.layers.BatchNormalization(momentum=0.5, name="bn")(x)
    model = keras.Model(inputs, keras.layers.Dense(1, kernel_initializer="ones", name="head")(x))
    model.compile(optimizer, loss="mse", metrics=["mae"])
    return model


def fit(model: keras.Model, *callbacks: Any) -> dict[str, list[float]]:
    x = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    history = model.fit(
        x,
        x.sum(axis=1) ** 2,
        batch_size=2,
        epochs=3,
        validation_data=(x, x.sum(axis=1) ** 2),
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )
    return dict(history.history)


@pytest.mark.parametrize("scaled", [False, True])
def test_evaluation_sees_the_averages_of_weights_and_statistics(
    scaled: bool, tmp_path: Path
) -> None:
    inner = Momentum(0.05, use_ema=True, ema_momentum=DECAY)
    optimizer = keras.optimizers.LossScaleOptimizer(inner) if scaled else inner
    model, record = make_model(optimizer), Record()
    save = SaveBest(tmp_path / "best.keras", "val_loss")
    history = fit(model, AverageWeights(), record, save)
    averages: list[np.ndarray] = []
    for step, weights in enumerate(record.trained, start=1):
        averages = [
            DECAY * a + (1 - DECAY) * w for a, w in zip(averages or weights, weights, strict=True)
        ]
        if step % 4 == 0:
            for evaluated, average in zip(record.evaluated[step // 4 - 1], averages, strict=True):
                np.testing.assert_allclose(evaluated, average, rtol=1e-5, atol=1e-6)
    for final, average in zip(model.get_weights(), averages, strict=True):
        np.testing.assert_allclose(final, average, rtol=1e-5, atol=1e-6)
    saved = keras.saving.load_model(tmp_path / "best.keras").get_weights()
    for one, other in zip(saved, record.evaluated[save.best_epoch - 1], strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(history["val_loss"]) == 3


def test_training_is_not_disturbed() -> None:
    records = Record(), Record()
    fit(make_model(Momentum(0.05, use_ema=True)), AverageWeights(), records[0])
    fit(make_model(Momentum(0.05)), records[1])
    for one, other in zip(records[0].trained, records[1].trained, strict=True):
        for ours, theirs in zip(one, other, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_it_needs_averages() -> None:
    with pytest.raises(ValueError, match="use_ema=True"):
        fit(make_model(Momentum()), AverageWeights())


def test_a_model_without_statistics_is_averaged_too() -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(Momentum(0.05, use_ema=True, ema_momentum=DECAY), loss="mse")
    average = AverageWeights()
    fit(model, average)
    state = average.get_state()
    assert state["averages"] == []
    average.set_state(state)
