"""Each pass is applied to a graph of its form, and does not change the answers."""

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
from keras_cnns_export.formats import onnx as float_onnx
from keras_cnns_export.graph import serving_graph
from keras_cnns_export.onnx_passes import simplify

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
    """Keras' own batch norm after a sum, where there is no convolution to fold it into."""
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


def normalised_by_position(x: Any) -> Any:
    """Means and deviations [N, H, W, 1], which broadcast against gamma and beta [C]."""
    x = layers.LayerNormalization()(layers.Conv2D(4, 3)(layers.Rescaling(1 / 255)(x)))
    return layers.ReLU()(layers.RMSNormalization()(x))


CASES: dict[str, Callable[[], Any]] = {
    "preactivation": lambda: serving_graph(classifier(preactivation)),
    "depthwise": lambda: serving_graph(classifier(depthwise)),
    "flattened": lambda: serving_graph(classifier(flattened)),
    "normalised by position": lambda: serving_graph(classifier(normalised_by_position)),
    "caffe": lambda: serving_graph(classifier(layers.Conv2D(4, 3)), preprocess_input="caffe"),
    "torch": lambda: serving_graph(classifier(layers.Conv2D(4, 3)), preprocess_input="torch"),
    "every output": lambda: serving_graph(
        shaken(build("googlenet_bn", input_shape=(32, 32, 3), classes=10, aux_heads=True)),
        ("logits", "top_k", "cam", "features", "aux1", "aux2"),
    ),
    "resnet v2": lambda: serving_graph(
        # Large enough for maps of 2x2 at the end: the converter does not transpose maps of 1x1.
        shaken(build("resnet18_v2", input_shape=(64, 64, 3), classes=10))
    ),
    "resnet v1": lambda: serving_graph(shaken(build("resnet20", classes=10))),
}
SLOW_CASES = ("every output", "resnet v2")  # 20 and 9 seconds
LEFT_BATCH_NORMS = {"preactivation": 2, "resnet v2": 9}


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.soak] * (case in SLOW_CASES)) for case in CASES],
)
def test_one_transpose_is_left_and_it_is_of_bytes(case: str) -> None:
    graph = CASES[case]()
    model = float_onnx.convert(graph, 17)
    simplify(model)
    operations = Counter(node.op_type for node in model.graph.node)
    (transpose,) = (node for node in model.graph.node if node.op_type == "Transpose")
    before = {name for node in model.graph.node for name in node.output}
    assert list(transpose.input) == ["images"]
    assert not before & set(transpose.input)
    assert operations["BatchNormalization"] == LEFT_BATCH_NORMS.get(case, 0)
    if case not in ("every output", "normalised by position"):
        for node in model.graph.node:  # the only Mul by channel that is left is that of the input
            assert node.op_type != "Mul" or "rescaling" in node.name
    check_answers(graph, model)


@pytest.mark.parametrize("shape", [(-1, 12), (-1, 1, 12), (1, -1, 12)])
def test_a_flatten_gives_what_it_gave_if_it_is_no_matrix_too(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    kernel = random.normal(size=(12, 5)).astype(np.float32)
    constants = {"shape": np.array(shape), "kernel": kernel}
    nodes = [
        onnx.helper.make_node("Transpose", ["x"], ["last"], perm=[0, 2, 3, 1]),
        onnx.helper.make_node("Reshape", ["last", "shape"], ["flat"]),
        onnx.helper.make_node("MatMul", ["flat", "kernel"], ["y"]),
    ]
    x, y = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sizes)
        for name, sizes in (("x", ["N", 3, 2, 2]), ("y", None))
    )
    initializers = [onnx.numpy_helper.from_array(each, name) for name, each in constants.items()]
    graph = onnx.helper.make_graph(nodes, "flatten", [x], [y], initializers)
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    simplify(model)
    maps = random.normal(size=(4, 3, 2, 2)).astype(np.float32)
    (given,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": maps})
    expected = maps.transpose(0, 2, 3, 1).reshape(shape) @ kernel
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-5)
    transposed = any(node.op_type == "Transpose" for node in model.graph.node)
    assert transposed == (len(shape) != 2)


def check_answers(graph: Any, model: Any) -> None:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    images = np.random.default_rng(1).integers(0, 256, (3, *graph.image_shape), np.uint8)
    given = dict(zip(names, session.run(names, {"images": images}), strict=True))
    for name, expected in graph.reference()(images).items():
        scale = max(1, np.abs(expected).max())
        np.testing.assert_allclose(given[name], expected, rtol=0, atol=1e-4 * scale, err_msg=name)
