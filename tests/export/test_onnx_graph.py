"""Each pass on a graph of the form that it is for: it is done, and the answers stay."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from keras import layers

from keras_cnns.models import build
from keras_cnns_export import onnx_model
from keras_cnns_export.graph import serving_graph
from keras_cnns_export.onnx_graph import simplify

SHAPE = (16, 12, 3)


def shaken(model: Any) -> Any:
    """The model with statistics and biases that are not 0 and 1."""
    random = np.random.default_rng(0)
    for weight in model.weights:
        if len(weight.shape) == 1:
            weight.assign(weight.numpy() + random.uniform(0.05, 0.3, weight.shape))
    return model


def classifier(body: Callable[[Any], Any]) -> Any:
    images = keras.Input(SHAPE)
    x = body(images)
    x = layers.GlobalAveragePooling2D()(x) if len(x.shape) == 4 else x
    return shaken(keras.Model(images, layers.Dense(5, activation="softmax")(x)))


def preactivation(x: Any) -> Any:
    """Keras' own batch norm, behind a sum: nothing to fold it into."""
    x = layers.Conv2D(8, 3, padding="same")(layers.Rescaling([0.01, 0.02, 0.03])(x))
    y = layers.ReLU()(layers.BatchNormalization()(x))
    x = x + layers.Conv2D(8, 3, padding="same")(y)
    return layers.ReLU()(layers.BatchNormalization()(x))


def depthwise(x: Any) -> Any:
    x = layers.DepthwiseConv2D(3, use_bias=False, depth_multiplier=2)(x)
    return layers.ReLU()(layers.BatchNormalization()(x))


def flattened(x: Any) -> Any:
    x = layers.Conv2D(4, 3, strides=2, activation="relu")(layers.Rescaling(1 / 255)(x))
    return layers.Dense(6, activation="relu")(layers.Flatten()(x))


CASES: dict[str, Callable[[], Any]] = {
    "preactivation": lambda: serving_graph(classifier(preactivation)),
    "depthwise": lambda: serving_graph(classifier(depthwise)),
    "flattened": lambda: serving_graph(classifier(flattened)),
    "caffe": lambda: serving_graph(classifier(layers.Conv2D(4, 3)), preprocess_input="caffe"),
    "torch": lambda: serving_graph(classifier(layers.Conv2D(4, 3)), preprocess_input="torch"),
    "every output": lambda: serving_graph(
        shaken(build("googlenet_bn", input_shape=(32, 32, 3), classes=10, aux_heads=True)),
        ("logits", "top_k", "cam", "features", "aux1", "aux2"),
    ),
    "resnet v2": lambda: serving_graph(
        # Large enough for maps of 2x2 at the end: of 1x1 the converter reshapes, not transposes.
        shaken(build("resnet18_v2", input_shape=(64, 64, 3), classes=10))
    ),
    "resnet v1": lambda: serving_graph(shaken(build("resnet20", classes=10))),
}
LEFT_BATCH_NORMS = {"preactivation": 2, "resnet v2": 9}


@pytest.mark.parametrize("case", CASES)
def test_one_transpose_is_left_and_it_is_of_bytes(case: str) -> None:
    graph = CASES[case]()
    model = onnx_model._convert(graph, 17)
    simplify(model)
    operations = Counter(node.op_type for node in model.graph.node)
    (transpose,) = (node for node in model.graph.node if node.op_type == "Transpose")
    before = {name for node in model.graph.node for name in node.output}
    assert list(transpose.input) == ["images"]
    assert not before & set(transpose.input)
    assert operations["BatchNormalization"] == LEFT_BATCH_NORMS.get(case, 0)
    for node in model.graph.node:  # a Mul or an Add by channel is left for the input alone
        if node.op_type == "Mul" and case != "every output":
            assert "rescaling" in node.name

    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    images = np.random.default_rng(1).integers(0, 256, (3, *graph.image_shape), np.uint8)
    given = dict(zip(names, session.run(names, {"images": images}), strict=True))
    for name, expected in graph.reference()(images).items():
        scale = max(1, np.abs(expected).max())
        np.testing.assert_allclose(given[name], expected, rtol=0, atol=1e-4 * scale, err_msg=name)
