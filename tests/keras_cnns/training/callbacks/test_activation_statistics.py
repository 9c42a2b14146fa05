import keras
import pytest
from two_layers import fit, hidden, make_data, make_model

from keras_cnns.training.callbacks import ActivationStatistics, Probe


def test_mean_and_standard_deviation_are_those_computed_by_hand() -> None:
    model, (x, y) = make_model(), make_data()
    h = hidden(model, x)
    callback = ActivationStatistics(Probe(x, y))
    fit(model, callback, steps=1)
    assert callback.metrics == pytest.approx(
        {
            "activation_mean": h.mean(),
            "activation_std": h.std(),
            "activation_mean/hidden": h.mean(),
            "activation_std/hidden": h.std(),
        },
        rel=1e-5,
    )


def test_a_net_without_nonlinearity_has_the_outputs_of_its_kernels() -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="only")])
    model.compile("sgd", loss="mse")
    x, y = make_data()
    out = keras.ops.convert_to_numpy(model(x))
    callback = ActivationStatistics(Probe(x, y))
    fit(model, callback, steps=1)
    assert callback.metrics["activation_mean/only"] == pytest.approx(out.mean(), abs=1e-5)
    assert callback.metrics["activation_std/only"] == pytest.approx(out.std(), rel=1e-5)
