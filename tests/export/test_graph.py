import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_cnns_export import ExportError
from keras_cnns_export.contract import TensorSpec
from keras_cnns_export.graph import _library, _without_xla, serving_graph


def heads(**units: int) -> Callable[[Any], dict[str, Any]]:
    return lambda x: {
        name: layers.Dense(classes, activation="softmax", name=name)(x)
        for name, classes in units.items()
    }


def test_raw_pixels_go_in_and_named_probabilities_come_out(tiny: Any, split: Any) -> None:
    graph = serving_graph(tiny)
    assert graph.inputs == (TensorSpec("images", "uint8", (None, 12, 10, 3)),)
    assert graph.outputs == (TensorSpec("probabilities", "float32", (None, 5)),)
    assert (graph.image_shape, graph.classes) == ((12, 10, 3), 5)
    images = split[0]
    expected = tiny.predict(images.astype("float32"), verbose=0)
    given = graph.function(images)
    assert list(given) == ["probabilities"]
    np.testing.assert_allclose(given["probabilities"], expected, atol=1e-5)
    np.testing.assert_allclose(graph.reference()(images)["probabilities"], expected, atol=1e-5)


def test_inference_keeps_main_and_drops_the_auxiliary_heads(build_tiny: Any, split: Any) -> None:
    model = build_tiny(head=heads(aux1=4, main=4, aux2=4))  # Keras sorts: aux1 comes first
    graph = serving_graph(model)
    expected = model.predict(split[0].astype("float32"), verbose=0)["main"]
    np.testing.assert_allclose(
        graph.function(split[0])["probabilities"], expected, rtol=0, atol=1e-5
    )
    assert graph.network.count_params() == model.count_params() - 2 * (8 * 4 + 4)


def test_a_sequential_model_is_as_good() -> None:
    layer = layers.Dense(3, activation="softmax")
    model = keras.Sequential([keras.Input((4, 4, 1)), layers.Flatten(), layer])
    graph = serving_graph(model)
    given = graph.function(np.ones((2, 4, 4, 1), np.uint8))["probabilities"]
    np.testing.assert_allclose(given, model.predict(np.ones((2, 4, 4, 1)), verbose=0), atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_a_model_in_lower_precision_is_exported_in_float32(
    build_tiny: Any, split: Any, policy: str
) -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        inner = build_tiny()
        images = keras.Input(inner.input_shape[1:])
        model = keras.Model(images, inner(images))  # a model within a model
        graph = serving_graph(model)
        assert keras.config.dtype_policy().name == policy
    finally:
        keras.config.set_dtype_policy(before)
    assert {weight.dtype for weight in graph.network.weights} == {"float32"}
    low = np.asarray(model(split[0].astype("float32"), training=False), "float32")
    assert np.abs(graph.function(split[0])["probabilities"] - low).max() < 0.05
    assert graph.function(split[0])["probabilities"].dtype == "float32"


class Subclass(keras.Model):
    def call(self, x: Any) -> Any:
        return x


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda build: "model.keras", "cannot export a str: give a keras.Model"),
        (lambda build: Subclass(name="mine"), "mine has no fixed input: begin it with keras.Input"),
        (
            lambda build: keras.Sequential([layers.Flatten(), layers.Dense(3)], name="mine"),
            "mine has no fixed input",
        ),
        (
            lambda build: keras.Sequential([keras.Input((8,)), layers.Dense(3)], name="mine"),
            r"mine takes \[None, 8\]; it must take one batch of images \[N, height, width",
        ),
        (lambda build: build((8, None, 3)), r"tiny takes \[None, 8, None, 3\]; .* of a fixed size"),
        (lambda build: build((8, 8, 4)), r"1 \(grey\) or 3 \(RGB\) channels"),
        (lambda build: build(head=heads(aux1=3)), "tiny has the outputs aux1, but no 'main'"),
        (
            lambda build: build(head=layers.Dense(1, name="top")),
            r"tiny gives \[None, 1\], and its last layer, top, has no sigmoid",
        ),
        (lambda build: build(head=lambda x: x[:, 0]), r"tiny gives \[None\]; it must give prob"),
        (lambda build: build(head=lambda x: [layers.Dense(3)(x)] * 2), "tiny gives a list"),
    ],
)
def test_other_models_are_refused_with_what_would_be_right(
    build_tiny: Any, make: Callable[[Any], Any], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        serving_graph(make(build_tiny))


class Compiled(layers.Layer):
    """Calls a function that XLA must compile."""

    def __init__(self, double: Any) -> None:
        super().__init__()
        self.double = double

    def call(self, x: Any) -> Any:
        return self.double(x)


def doubling(jit_compile: bool) -> Any:
    signature = [tf.TensorSpec((None, 12, 10, 3))]
    return tf.function(lambda x: 2 * x, input_signature=signature, jit_compile=jit_compile)


def with_layer(layer: Any) -> Any:
    images = keras.Input((12, 10, 3))
    pooled = layers.GlobalAveragePooling2D()(layer(images))
    return keras.Model(images, layers.Dense(3, activation="softmax")(pooled))


def test_functions_that_xla_must_compile_are_inlined_and_saved_ones_refused(
    split: Any, tmp_path: Path
) -> None:
    model = with_layer(Compiled(doubling(jit_compile=True)))
    graph = serving_graph(model)
    definition = graph.function.get_concrete_function().graph.as_graph_def()
    assert b"_XlaMustCompile" not in definition.SerializeToString()
    assert not definition.library.function
    assert not tf.config.functions_run_eagerly()
    expected = model.predict(split[0].astype("float32"), verbose=0)
    np.testing.assert_allclose(graph.function(split[0])["probabilities"], expected, atol=1e-6)

    module = tf.Module()
    module.double = doubling(jit_compile=True)
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    with pytest.raises(ExportError, match=r"loaded function that XLA must compile .jit_compile="):
        serving_graph(with_layer(Compiled(loaded.double)))


def test_a_loaded_function_that_xla_need_not_compile_is_exported(
    split: Any, tmp_path: Path
) -> None:
    module = tf.Module()
    module.double = doubling(jit_compile=False)
    tf.saved_model.save(module, str(tmp_path))
    model = with_layer(Compiled(tf.saved_model.load(str(tmp_path)).double))
    expected = model.predict(split[0].astype("float32"), verbose=0)
    given = serving_graph(model).function(split[0])["probabilities"]
    np.testing.assert_allclose(given, expected, atol=1e-6)


@tf.function
def brightened(x: Any) -> Any:
    if tf.reduce_mean(x) < 0:
        x = -x
    return x


def test_autograph_is_exported_alone_and_refused_beside_a_function_of_xla(split: Any) -> None:
    model = with_layer(Compiled(brightened))
    expected = model.predict(split[0].astype("float32"), verbose=0)
    given = serving_graph(model).function(split[0])["probabilities"]
    np.testing.assert_allclose(given, expected, atol=1e-6)

    grouped = layers.Conv2D(6, 3, groups=3)
    branch = Compiled(brightened)
    with pytest.raises(ExportError, match=r"XLA must compile .*an `if`, .* on a tensor") as caught:
        serving_graph(with_layer(lambda x: branch(grouped(x))))
    assert isinstance(caught.value.__cause__, tf.errors.OperatorNotAllowedInGraphError)
    assert not tf.config.functions_run_eagerly()


def test_two_threads_do_not_trace_at_once() -> None:
    inside: list[Any] = []
    others: list[int] = []

    def trace(double: Any) -> Any:
        def call(x: Any) -> Any:
            others.append(len(inside))
            inside.append(double)
            time.sleep(0.05)  # without a lock, the other thread would run here
            inside.remove(double)
            return double(x)

        return _without_xla(call, [tf.TensorSpec([None, 12, 10, 3])], keras.Sequential())

    with ThreadPoolExecutor(2) as threads:
        traced = list(threads.map(trace, [doubling(jit_compile=True) for _ in range(2)]))
    assert others == [0] * 4  # each is traced as it is, and inlined
    assert not tf.config.functions_run_eagerly()
    assert not any(_library(function) for function in traced)
