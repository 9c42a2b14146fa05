"""Each pass on a model with its operation: it is replaced, and the answers do not change."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
import tf2onnx
from keras import layers

from keras_cnns.models import IdentityShortcut, LocalResponseNormalization
from keras_cnns_export.onnx_passes import simplify

SHAPE = (16, 12, 6)


def convolved(after: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: after(layers.Conv2D(6, 3, padding="same", activation="relu")(x))


def pool_of_any_sign(x: Any) -> Any:
    return layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(layers.Conv2D(6, 3)(x)))


# For each body: the operations that are replaced, and the operations that replace them.
CASES: dict[str, tuple[Callable[[Any], Any], dict[str, int]]] = {
    "local response normalization": (
        convolved(LocalResponseNormalization(size=5, alpha=0.3)),
        {"LRN": 0, "Conv": 2, "Sqrt": 2, "Div": 1},
    ),
    "another exponent": (
        convolved(LocalResponseNormalization(size=5, alpha=0.3, beta=0.5)),
        {"LRN": 1, "Conv": 1},
    ),
    "identity shortcut": (
        convolved(IdentityShortcut(12, stride=2)),
        {"AveragePool": 0, "Pad": 0, "Conv": 2},
    ),
    "padded pool": (
        convolved(lambda x: layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x))),
        {"Pad": 0, "MaxPool": 1},
    ),
    "padded pool of what may be negative": (pool_of_any_sign, {"Pad": 0, "MaxPool": 1, "Max": 1}),
    "uneven padding": (
        lambda x: layers.MaxPooling2D((3, 2), (2, 3))(
            layers.ZeroPadding2D(((2, 1), (0, 1)))(layers.Conv2D(6, 3)(x))
        ),
        {"Pad": 0, "MaxPool": 1, "Max": 1},
    ),
}


def converted(body: Callable[[Any], Any]) -> tuple[Any, Any]:
    """Return the model of Keras, and that of tf2onnx."""
    keras.utils.set_random_seed(0)
    images = keras.Input(SHAPE)
    network = keras.Model(images, body(images))
    function = tf.function(lambda images: {"maps": network(images, training=False)})
    signature = [tf.TensorSpec((None, *SHAPE), tf.float32, name="images")]
    return network, tf2onnx.convert.from_function(function, signature, opset=17)[0]


def answers(model: Any, images: Any) -> Any:
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=providers)
    return session.run(None, {session.get_inputs()[0].name: images})[0]


@pytest.mark.parametrize("name", CASES)
def test_the_graph_changes_and_the_answers_stay(name: str) -> None:
    body, expected = CASES[name]
    network, model = converted(body)
    # Negative at some corners, where a padding of zeros shows.
    images = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32) * 3
    images -= 3
    simplify(model)
    onnx.checker.check_model(model, full_check=True)
    operations = Counter(node.op_type for node in model.graph.node)
    assert {each: operations[each] for each in expected} == expected
    expected_maps = network(images, training=False)
    np.testing.assert_allclose(answers(model, images), expected_maps, rtol=1e-4, atol=1e-5)
