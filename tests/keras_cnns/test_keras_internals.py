"""Keras' private APIs still do what we use them for."""

import gc
import weakref
from typing import Any

import tensorflow as tf

from keras_cnns.keras_internals import clear_session


def _differentiate() -> Any:
    """Compute a gradient in a graph, and return a weak reference to the graph."""

    @tf.custom_gradient
    def square(x: tf.Tensor) -> tuple[tf.Tensor, object]:
        return x * x, lambda upstream: 2 * x * upstream

    @tf.function
    def gradient(x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = square(x)
        return tape.gradient(y, x)

    assert gradient(tf.constant(3.0)) == 6
    return weakref.ref(gradient.get_concrete_function(tf.constant(3.0)).graph)


def test_no_graph_survives_the_end_of_a_session() -> None:
    graph = _differentiate()
    gc.collect()
    assert graph() is not None  # if TensorFlow releases it one day, Keras' function is enough
    clear_session()
    assert graph() is None
