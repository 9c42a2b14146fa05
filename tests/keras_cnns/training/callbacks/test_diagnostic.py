"""When diagnostics measure, what they do not change, and where their numbers are written."""

from typing import Any

import keras
import numpy as np
import pytest
from two_layers import fit, make_data, make_model

from keras_cnns.training.callbacks import (
    ActivationStatistics,
    DeadReLU,
    Diagnostic,
    GradientNorm,
    LearningRate,
    Probe,
    UpdateRatio,
)


class When(Diagnostic):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.steps: list[int] = []

    def measure(self) -> dict[str, float]:
        self.steps.append(self.step)
        return {"steps": float(self.step), "steps/layer": 1.0}


@pytest.mark.parametrize(
    ("interval", "steps_per_execution", "expected"),
    [(1, 1, [0, 1, 2, 3, 4, 5]), (4, 1, [0, 4]), (100, 1, [0]), (2, 3, [0, 3])],
)
def test_it_measures_each_interval(
    interval: int, steps_per_execution: int, expected: list[int]
) -> None:
    callback = When(interval=interval)
    fit(make_model(steps_per_execution=steps_per_execution), callback, steps=3, epochs=2)
    assert callback.steps == expected
    assert callback.step == 6


def test_an_interval_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="interval is 0"):
        When(interval=0)


@pytest.mark.parametrize(("layers_in_logs", "names"), [(False, {"steps"}), (True, None)])
def test_the_epochs_logs_have_the_latest(layers_in_logs: bool, names: set[str] | None) -> None:
    history = fit(make_model(), When(interval=2, layers_in_logs=layers_in_logs), steps=3, epochs=2)
    assert history["steps"] == [2, 4]
    assert history.keys() - {"loss"} == (names or {"steps", "steps/layer"})


def test_an_epoch_without_a_measurement_has_none_in_its_logs() -> None:
    logged: list[dict[str, float]] = []
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: logged.append(logs))
    first, resumed = When(interval=4), When(interval=4)
    fit(make_model(), first, note, steps=3, epochs=4)  # measures at steps 0, 4 and 8
    assert [logs.get("steps") for logs in logged] == [0, 4, 8, None]
    resumed.set_state(first.get_state())
    assert not resumed.is_of_epoch


def test_a_state_goes_on() -> None:
    first, second = When(interval=4), When(interval=4)
    fit(make_model(), first, steps=3)
    second.set_state(first.get_state())
    fit(make_model(), second, steps=3)
    assert (first.steps, second.steps, second.step) == ([0], [4], 6)


def make_net() -> keras.Model:
    """Return a network with all that a pass could disturb: statistics, dropout's seed, a metric."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((3,))
    x = keras.layers.Dense(4, kernel_regularizer="l2")(inputs)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, activation="relu")])
    x = keras.layers.Dropout(0.5)(inner(x))
    model = keras.Model(inputs, {"a": keras.layers.Dense(2)(x), "b": keras.layers.Dense(2)(x)})
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        loss={"a": "mse", "b": "mse"},
        loss_weights={"a": 1.0, "b": 0.3},
        metrics={"a": ["mae"]},
    )
    return model


def test_training_is_the_same_to_the_bit() -> None:
    x, y = make_data(16)
    targets = {"a": y, "b": y}
    results = []
    for is_watched in (False, True):
        model = make_net()
        probe = Probe(x[:4], {"a": y[:4], "b": y[:4]})
        kinds = (GradientNorm, ActivationStatistics, DeadReLU)
        callbacks = [*(kind(probe, interval=2) for kind in kinds), UpdateRatio(interval=2)]
        callbacks.append(LearningRate())
        history = model.fit(
            x, targets, batch_size=4, epochs=3, verbose=0, callbacks=callbacks[: 5 * is_watched]
        )
        results.append((model.get_weights(), history.history))
    (weights, history), (watched_weights, watched_history) = results
    for one, other in zip(weights, watched_weights, strict=True):
        np.testing.assert_array_equal(one, other)
    assert {name: watched_history[name] for name in history} == history
    assert len(watched_history["gradient_ratio"]) == 3
