"""The learning-rate finder on problems whose losses and highest stable learning rate are known."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest

from keras_cnns.training.callbacks import LRFinder

BATCH_SIZES = (4, 4, 1, 4, 3, 4, 4, 2, 4, 4, 1)
AUX_WEIGHT = 0.3


def fit(finder: LRFinder, momentum: float = 0.0) -> keras.Model:
    """Fit a line by gradient descent; it converges if the learning rate is below 2 / 8."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.layers[0].kernel.assign([[1.0]])
    model.compile(keras.optimizers.SGD(1e-9, momentum=momentum), loss="mse")
    train(model, finder)
    return model


def train(model: keras.Model, finder: LRFinder) -> None:
    x = np.full((4000, 1), 2.0, "float32")
    noise = np.repeat(np.resize([1.0, -1.0], 100), 40)[:, None]  # by batch: no line fits exactly
    model.fit(x, 4 * x + noise, batch_size=40, verbose=0, shuffle=False, callbacks=[finder])


def test_it_finds_the_rate_of_a_line() -> None:
    finder = LRFinder(1e-4, 100.0, steps=100)
    fit(finder)
    np.testing.assert_allclose(finder.learning_rates[:2], [1e-4, 1e-4 * 1e6 ** (1 / 99)])
    assert finder.losses[0] == pytest.approx((4 * 2 + 1 - 2) ** 2)
    weight = 1 + 1e-4 * 2 * 2 * (4 * 2 + 1 - 2)
    assert finder.losses[1] == pytest.approx((4 * 2 - 1 - 2 * weight) ** 2, rel=1e-4)
    assert 0.25 < finder.learning_rates[-1] < 5  # it stopped soon after the loss had grown
    assert 0.25 / 100 < finder.propose() < 0.25


def test_a_model_that_was_trained_before_gets_the_rising_rates() -> None:
    expected, finder = (LRFinder(1e-4, 100.0, steps=100) for _ in range(2))
    fit(expected)
    model = fit(LRFinder(1e-9, 1e-8, steps=100))
    model.layers[0].kernel.assign([[1.0]])
    model.optimizer.iterations.assign(0)
    train(model, finder)
    np.testing.assert_allclose(finder.losses, expected.losses)


def test_a_loss_that_only_grows_has_no_proposal() -> None:
    finder = LRFinder(1.0, 10.0, steps=100)
    fit(finder)
    with pytest.raises(ValueError, match="the loss never fell between the learning rates 1 and 10"):
        finder.propose()


def test_it_stops_at_a_loss_that_is_not_finite() -> None:
    finder = LRFinder(1e20, 1e30, steps=100)
    fit(finder)
    assert len(finder.learning_rates) < 5
    assert np.isfinite(finder.losses).all()


@pytest.mark.parametrize("has_weights", [False, True])
@pytest.mark.parametrize("has_aux_output", [False, True])
def test_every_loss_is_exactly_that_of_its_batch(has_weights: bool, has_aux_output: bool) -> None:
    generator = np.random.default_rng(3)
    inputs = keras.Input((3,))
    outputs = {
        name: keras.layers.Dense(1, name=name)(inputs)
        for name in (("main", "aux") if has_aux_output else ("main",))
    }
    model = keras.Model(inputs, outputs if has_aux_output else outputs["main"])
    expected: list[float] = []
    data: list[tuple[Any, ...]] = []
    loss_weights = {"main": 1.0, "aux": AUX_WEIGHT}
    for size in BATCH_SIZES:
        x = generator.normal(size=(size, 3)).astype("float32")
        # Losses of very different sizes, which would hide in a running mean.
        y = generator.normal(size=(size, 1)).astype("float32") * 10 ** generator.uniform(-2, 2)
        weights = generator.uniform(0.1, 2, size).astype("float32")
        targets = dict.fromkeys(outputs, y) if has_aux_output else y
        sample_weights = dict.fromkeys(outputs, weights) if has_aux_output else weights
        data.append((x, targets, sample_weights) if has_weights else (x, targets))
        loss = 0.0
        for name in outputs:
            kernel, bias = model.get_layer(name).get_weights()
            errors = ((x @ kernel + bias - y) ** 2)[:, 0]
            loss += loss_weights[name] * np.mean(errors * weights if has_weights else errors)
        expected.append(float(loss))
    model.compile(
        keras.optimizers.SGD(1e-9),
        loss=dict.fromkeys(outputs, "mse") if has_aux_output else "mse",
        loss_weights=loss_weights if has_aux_output else None,
    )

    def batches() -> Iterator[tuple[Any, ...]]:
        yield from data

    # The learning rates are too low to move a weight.
    finder = LRFinder(1e-14, 1e-13, steps=len(data))
    model.fit(batches(), steps_per_epoch=len(data), shuffle=False, verbose=0, callbacks=[finder])
    np.testing.assert_allclose(finder.losses, expected, rtol=2e-6)


def test_several_steps_per_execution_are_refused() -> None:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", loss="mse", steps_per_execution=4)
    message = "compile the model with steps_per_execution=1, not 4"
    with pytest.raises(ValueError, match=message):
        model.fit(np.zeros((40, 1)), np.zeros((40, 1)), verbose=0, callbacks=[LRFinder()])


@pytest.mark.parametrize("options", [(0, 1, 100), (1, 1, 100), (0.1, 1, 5)])
def test_a_range_that_is_none_is_refused(options: tuple[float, float, int]) -> None:
    with pytest.raises(ValueError, match="0 < lowest < highest"):
        LRFinder(*options)
