from typing import Any

import keras
import numpy as np
import pytest
from two_layers import fit, make_data, make_model

from keras_cnns.training.callbacks import DeadReLU, Probe


def test_one_of_five_units_is_dead() -> None:
    callback = DeadReLU(Probe(*make_data(64)))
    fit(make_model(), callback, steps=1)
    assert callback.metrics == pytest.approx({"dead_relu": 0.2, "dead_relu/hidden": 0.2})


# Each has 4 channels of 2x2 positions; channel 0 is alive at one position only, 3 nowhere.
@pytest.mark.parametrize(
    ("layer", "share"),
    [
        (keras.layers.ReLU(), 0.25),
        (keras.layers.Activation("relu"), 0.25),
        (keras.layers.ReLU(negative_slope=0.1), None),
        (keras.layers.Activation("tanh"), None),
    ],
)
def test_which_layers_count(layer: Any, share: float | None) -> None:
    inputs = keras.Input((2, 2, 4))
    outputs = keras.layers.GlobalAveragePooling2D()(layer(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2)(outputs))
    model.compile("sgd", loss="mse")
    x = np.full((4, 2, 2, 4), -1.0, "float32")
    x[2, 1, 1, 0] = x[..., 1] = x[..., 2] = 1
    callback = DeadReLU(Probe(x, np.zeros((4, 2))))
    model.fit(x, np.zeros((4, 2)), verbose=0, callbacks=[callback])
    assert callback.metrics.get("dead_relu") == share
