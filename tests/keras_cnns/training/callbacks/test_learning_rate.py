import keras
import pytest
from two_layers import fit, make_model

from keras_cnns.training.callbacks import LearningRate

HALVING = keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)


@pytest.mark.parametrize(
    ("rate", "first", "ends"), [(0.1, 0.1, [0.1, 0.1]), (HALVING, 0.1, [0.1 / 4, 0.1 / 16])]
)
def test_of_a_constant_and_a_schedule(rate: float, first: float, ends: list[float]) -> None:
    model = make_model()
    model.compile(keras.optimizers.SGD(rate), loss="mse")
    callback = LearningRate()
    history = fit(model, callback, steps=2, epochs=2)
    assert callback.metrics["learning_rate"] == pytest.approx(first)
    assert history["learning_rate"] == pytest.approx(ends)
