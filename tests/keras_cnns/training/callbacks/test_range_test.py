"""The range test on a problem whose highest stable rate is known."""

import keras
import numpy as np
import pytest

from keras_cnns.training.callbacks import RangeTest


def fit(test: RangeTest, momentum: float = 0.0) -> keras.Model:
    """Fit a line by gradient descent: it converges below the rate 2 / curvature, 2 / 8 here."""
    x = np.full((4000, 1), 2.0, "float32")
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.layers[0].kernel.assign([[1.0]])
    model.compile(keras.optimizers.SGD(1e-9, momentum=momentum), loss="mse")
    noise = np.repeat(np.resize([1.0, -1.0], 100), 40)[:, None]  # by batch: no rate fits exactly
    model.fit(x, 4 * x + noise, batch_size=40, verbose=0, shuffle=False, callbacks=[test])
    return model


def test_it_finds_the_rate_of_a_line() -> None:
    test = RangeTest(1e-4, 100.0, steps=100)
    fit(test)
    np.testing.assert_allclose(test.rates[:2], [1e-4, 1e-4 * 1e6 ** (1 / 99)])
    assert test.losses[0] == pytest.approx((4 * 2 + 1 - 2) ** 2)
    weight = 1 + 1e-4 * 2 * 2 * (4 * 2 + 1 - 2)
    assert test.losses[1] == pytest.approx((4 * 2 - 1 - 2 * weight) ** 2, rel=1e-4)
    assert 0.25 < test.rates[-1] < 5  # it stopped soon after the loss had grown
    assert 0.25 / 100 < test.propose() < 0.25


def test_a_loss_that_only_grows_has_no_proposal() -> None:
    test = RangeTest(1.0, 10.0, steps=100)
    fit(test)
    with pytest.raises(ValueError, match="the loss never fell between the rates 1 and 10"):
        test.propose()


def test_it_stops_at_a_loss_that_is_not_finite() -> None:
    test = RangeTest(1e20, 1e30, steps=100)
    fit(test)
    assert len(test.rates) < 5
    assert np.isfinite(test.losses).all()


@pytest.mark.parametrize("options", [(0, 1, 100), (1, 1, 100), (0.1, 1, 5)])
def test_a_range_that_is_none_is_refused(options: tuple[float, float, int]) -> None:
    with pytest.raises(ValueError, match="0 < lowest < highest"):
        RangeTest(*options)
