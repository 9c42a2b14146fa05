import keras
import numpy as np
import pytest
from two_layers import fit, kernel_gradients, make_data, make_model

from keras_cnns.training.callbacks import GradientNorm, Probe


@pytest.mark.parametrize("last", ["", "head", "no such layer"])
def test_norms_are_those_computed_by_hand(last: str) -> None:
    model, (x, y) = make_model(), make_data()
    norms = [float(np.linalg.norm(g)) for g in kernel_gradients(model, x, y)]
    callback = GradientNorm(Probe(x, y), last=last)
    fit(model, callback, steps=1)
    assert callback.metrics == pytest.approx(
        {
            "gradient_norm": np.hypot(norms[0], norms[1]),
            "gradient_ratio": norms[0] / norms[1],
            "gradient_norm/hidden": norms[0],
            "gradient_norm/head": norms[1],
        },
        rel=1e-5,
    )


def test_the_ratio_is_to_the_layer_of_that_name() -> None:
    callback = GradientNorm(Probe(*make_data()), last="hidden")
    fit(make_model(), callback, steps=1)
    assert callback.metrics["gradient_ratio"] == 1


def test_the_gradient_vanishes_with_depth_and_the_ratio_says_so() -> None:
    def ratio(depth: int) -> float:
        keras.utils.set_random_seed(0)
        sigmoids = [keras.layers.Dense(8, activation="sigmoid") for _ in range(depth)]
        model = keras.Sequential([keras.Input((3,)), *sigmoids, keras.layers.Dense(2)])
        model.compile("sgd", loss="mse")
        callback = GradientNorm(Probe(*make_data()))
        fit(model, callback, steps=1)
        return callback.metrics["gradient_ratio"]

    assert ratio(10) < 1e-3 * ratio(2)


def test_a_pass_after_unfreezing_is_that_of_a_new_process() -> None:
    """In training, a frozen batch normalisation uses its moving statistics."""
    keras.utils.set_random_seed(0)
    normalisation = keras.layers.BatchNormalization()
    model = keras.Sequential([keras.Input((3,)), normalisation, keras.layers.Dense(2)])
    model.compile("sgd", loss="mse")
    probe = Probe(*make_data())
    GradientNorm(probe).set_model(model)
    normalisation.trainable = False
    frozen = probe.run(model, 1)
    normalisation.trainable = True
    unfrozen = probe.run(model, 2)
    assert frozen != unfrozen
    probe.forget()
    assert probe.run(model, 2) == unfrozen


def test_a_frozen_layer_still_has_its_gradient() -> None:
    model = make_model()
    model.get_layer("hidden").trainable = False
    model.compile("sgd", loss="mse")
    x, y = make_data()
    expected = float(np.linalg.norm(kernel_gradients(model, x, y)[0]))
    callback = GradientNorm(Probe(x, y))
    fit(model, callback, steps=1)
    assert callback.metrics["gradient_norm/hidden"] == pytest.approx(expected, rel=1e-5)
