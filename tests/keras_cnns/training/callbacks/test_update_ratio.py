import numpy as np
import pytest
from two_layers import RATE, fit, kernel_gradients, make_data, make_model

from keras_cnns.training.callbacks import UpdateRatio


def test_ratios_are_those_computed_by_hand() -> None:
    model, (x, y) = make_model(), make_data(4)
    before = [np.array(layer.kernel) for layer in model.layers[1:]]
    updates = [RATE * gradient for gradient in kernel_gradients(model, x, y)]
    ratios = [
        float(np.linalg.norm(u) / np.linalg.norm(w)) for u, w in zip(updates, before, strict=True)
    ]
    callback = UpdateRatio()
    fit(model, callback, steps=1)
    assert callback.metrics == pytest.approx(
        {
            "update_ratio": np.median(ratios),
            "update_ratio/hidden": ratios[0],
            "update_ratio/head": ratios[1],
        },
        rel=1e-4,
    )


def test_it_goes_on_from_a_state_in_the_middle_of_a_measurement() -> None:
    model = make_model()
    first, second = UpdateRatio(interval=1), UpdateRatio(interval=1)
    for callback in (first, second):
        callback.set_model(model)
    first.on_train_batch_begin(0)
    second.set_state(first.get_state())
    for weight in model.weights:
        weight.assign(weight * 1.5)
    second.on_train_batch_end(0)
    assert second.metrics["update_ratio"] == pytest.approx(0.5)
    assert second.step == 1
