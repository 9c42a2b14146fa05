"""Models of other people: nested models, and those with keras.applications' preprocessing."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from keras.applications import imagenet_utils

from keras_cnns_export import ExportError, export
from keras_cnns_export.graph import serving_graph
from keras_cnns_export.network import PREPROCESS_INPUT, prepare

SHAPE = (32, 32, 3)


@pytest.fixture(scope="module")
def mobile_net() -> Any:
    keras.utils.set_random_seed(0)
    return keras.applications.MobileNetV2(SHAPE, alpha=0.35, weights=None, classes=7)


@pytest.fixture(scope="module")
def images() -> Any:
    return np.random.default_rng(0).integers(0, 256, (3, *SHAPE), np.uint8)


@pytest.mark.parametrize("mode", PREPROCESS_INPUT)
def test_keras_applications_preprocessing_goes_into_the_graph(mode: str, images: Any) -> None:
    pixels = keras.Input(SHAPE)
    features = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(pixels))
    model = keras.Model(pixels, layers.Dense(5, activation="softmax")(features))
    expected = model.predict(
        imagenet_utils.preprocess_input(images.astype("float32"), mode=mode), verbose=0
    )
    graph = serving_graph(model, preprocess_input=mode)
    np.testing.assert_allclose(graph.function(images)["probabilities"], expected, atol=1e-5)


def test_a_model_within_a_model_is_flat_and_the_given_one_stays(
    mobile_net: Any, images: Any
) -> None:
    rescaled = keras.Sequential(
        [keras.Input(SHAPE), layers.Rescaling(1 / 127.5, offset=-1), mobile_net]
    )
    outer = keras.Input(SHAPE)
    model = keras.Model(outer, rescaled(outer))
    before = len(mobile_net.layers[2]._inbound_nodes)
    graph = serving_graph(model, ("logits", "features", "cam"))
    expected = model.predict(images.astype("float32"), verbose=0)
    answers = graph.function(images)
    np.testing.assert_allclose(answers["probabilities"], expected, rtol=0, atol=1e-5)
    assert answers["features"].shape == (3, 1280)
    assert not any(isinstance(layer, keras.Model) for layer in graph.network.layers)
    assert len(mobile_net.layers[2]._inbound_nodes) == before


def test_a_normalization_becomes_a_rescaling(images: Any) -> None:
    pixels = keras.Input(SHAPE)
    x = layers.Normalization(mean=[1.0, 20.0, 100.0], variance=[4.0, 400.0, 2500.0])(pixels)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(pixels, layers.Dense(5, activation="softmax")(x))
    network = prepare(model)
    assert not any(isinstance(layer, layers.Normalization) for layer in network.layers)
    expected = model.predict(images.astype("float32"), verbose=0)
    given = network.predict(images.astype("float32"), verbose=0)["main"]
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-5)


def test_a_loaded_model_may_have_names_that_keras_would_generate(images: Any) -> None:
    """Keras counts the generated names of a process, and starts anew in another one."""
    pixels = keras.Input(SHAPE)
    x = layers.Concatenate(name="concatenate")([pixels, pixels])
    x = layers.Activation("linear", name="subtract")(x)
    x = layers.Activation("linear", name="top_k")(layers.GlobalAveragePooling2D(name="cast")(x))
    model = keras.Model(pixels, layers.Dense(1, "sigmoid", name="temperature")(x))
    expected = model.predict(images.astype("float32"), verbose=0)[:, 0]
    keras.backend.clear_session()  # resets the counters
    graph = serving_graph(model, ("logits", "top_k"), temperature=1.0)
    given = graph.function(images)["probabilities"][:, 1]
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-5)


def test_preprocessing_may_have_the_name_of_a_layer(images: Any) -> None:
    pixels = keras.Input(SHAPE)
    x = layers.GlobalAveragePooling2D(name="rescaling")(pixels)
    model = keras.Model(pixels, layers.Dense(3, "softmax")(x))
    keras.backend.clear_session()
    network = prepare(model, "tf")
    expected = model.predict(images / np.float32(127.5) - 1, verbose=0)
    given = network.predict(images.astype("float32"), verbose=0)["main"]
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-5)


def test_a_list_with_one_output_is_this_output(images: Any) -> None:
    pixels = keras.Input(SHAPE)
    x = layers.GlobalAveragePooling2D()(pixels)
    model = keras.Model([pixels], [layers.Dense(3, "softmax")(x)])
    expected = model.predict(images.astype("float32"), verbose=0)
    given = serving_graph(model).function(images)["probabilities"]
    np.testing.assert_allclose(given, np.asarray(expected).reshape(3, 3), rtol=0, atol=1e-5)


def test_an_inner_model_may_be_called_with_a_keyword(mobile_net: Any, images: Any) -> None:
    pixels = keras.Input(SHAPE)
    model = keras.Model(pixels, mobile_net(inputs=pixels))
    expected = model.predict(images.astype("float32"), verbose=0)
    given = serving_graph(model).function(images)["probabilities"]
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-5)


def test_a_net_of_keras_applications_is_published(
    mobile_net: Any, tmp_path: Path, images: Any
) -> None:
    version = export(
        mobile_net,
        tmp_path / "mobile",
        preprocess_input="tf",
        outputs=("logits", "features", "cam", "top_k"),
    )
    assert (version / "saved_model.pb").exists()
    assert (version / "model.onnx").exists()


@pytest.mark.parametrize(
    ("shape", "mode", "message"),
    [
        ((8, 8, 3), "pytorch", "unknown preprocess_input 'pytorch'; there are: caffe, tf, torch"),
        ((8, 8, 1), "caffe", "is only for RGB images"),
    ],
)
def test_other_preprocessing_is_refused(
    shape: tuple[int, ...], mode: str, message: str, build_tiny: Any
) -> None:
    with pytest.raises(ExportError, match=message):
        prepare(build_tiny(shape), mode)
