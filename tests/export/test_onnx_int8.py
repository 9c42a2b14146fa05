"""int8 for ONNX Runtime: what becomes int8, what returns to float, and what is not published."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from keras import layers
from onnx import numpy_helper

from keras_cnns.models import LocalResponseNormalization
from keras_cnns_export import ExportError, export
from keras_cnns_export.contract import Preprocessing
from keras_cnns_export.formats import onnx as float_onnx
from keras_cnns_export.formats import onnx_int8
from keras_cnns_export.graph import Source, serving_graph
from keras_cnns_export.options import Quantization


def source_of(model: Any, images: Any, classes: Any, **quantization: Any) -> Source:
    graph = serving_graph(model)
    return Source(
        graph,
        tuple("abcde"),
        Preprocessing.for_shape(graph.image_shape),
        training_batches=lambda: iter([(images, classes)]),
        quantization=Quantization(**quantization),
    )


def write(source: Source, version: Path) -> dict[str, Any]:
    float_onnx.write(source, version)
    return onnx_int8.write(source, version)


def test_activations_are_uint8_and_weights_int8_by_channel(all_formats: Path) -> None:
    graph = onnx.load(all_formats / "model.int8.onnx").graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    zero_points = [
        constants[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"
    ]
    assert {value.dtype for value in zero_points} == {np.dtype("uint8")}
    kernels = [
        (constants[node.input[0]], constants[node.input[1]])
        for node in graph.node
        if node.op_type == "DequantizeLinear"
        and constants.get(node.input[0], np.zeros(1)).ndim == 4
    ]
    assert [kernel.dtype for kernel, _ in kernels] == [np.dtype("int8")] * 2
    assert all(len(kernel) == scale.size for kernel, scale in kernels)


def test_no_convolution_stays_in_float(all_formats: Path, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(all_formats / "model.int8.onnx", options)
    operations = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert operations.count("QLinearConv") == 2
    assert "Conv" not in operations


def test_metadata_and_names_stay(all_formats: Path) -> None:
    whole, int8 = (onnx.load(all_formats / name) for name in ("model.onnx", "model.int8.onnx"))
    assert list(int8.metadata_props) == list(whole.metadata_props)
    assert list(int8.graph.input) == list(whole.graph.input)
    assert list(int8.graph.output) == list(whole.graph.output)


@pytest.mark.parametrize("method", onnx_int8.METHODS)
def test_every_method_of_calibration_keeps_the_accuracy(
    method: str, tmp_path: Path, trained: Any
) -> None:
    model, images, classes = trained
    entry = write(source_of(model, images, classes, method=method, samples=40), tmp_path)
    assert entry["calibration"] == {"method": method, "samples": 40}
    given = onnx_int8.load(tmp_path)(images)["probabilities"].argmax(axis=1)
    expected = model.predict(images.astype("float32"), verbose=0).argmax(axis=1)
    assert (given == expected).mean() >= 0.99


def test_the_sums_of_squares_of_a_normalization_stay_in_float(
    tmp_path: Path, build_tiny: Any, split: Any
) -> None:
    def head(features: Any) -> Any:
        maps = layers.Conv2D(8, 1)(layers.Reshape((1, 1, 8))(features))
        maps = LocalResponseNormalization(name="squares")(layers.ReLU()(maps))
        return layers.Dense(5, activation="softmax")(layers.GlobalAveragePooling2D()(maps))

    entry = write(source_of(build_tiny(head=head), *split), tmp_path)
    graph = onnx.load(tmp_path / "model.int8.onnx").graph
    makers = {node.output[0]: node.op_type for node in graph.node}
    (window,) = (node for node in graph.node if node.name in entry["float_nodes"])
    assert "squares" in window.name
    assert [makers.get(name) for name in window.input] == ["Mul", None, None]


def spoilt(trained: Any, build_tiny: Any) -> Any:
    """Add a feature that is always 0; its large weight spoils the others in int8."""

    def head(features: Any) -> Any:
        zero = layers.ReLU()(-1e3 - features[:, :1])
        joined = layers.Concatenate()([features, zero])
        return layers.Dense(5, activation="softmax", name="head")(joined)

    model = build_tiny(head=head)
    *weights, kernel, bias = trained[0].get_weights()
    model.set_weights([*weights, np.concatenate([kernel, np.full((1, 5), 1e4)]), bias])
    return model


def test_a_sensitive_node_is_found_and_stays_in_float(
    tmp_path: Path, trained: Any, build_tiny: Any
) -> None:
    model = spoilt(trained, build_tiny)
    _, images, classes = trained
    source = source_of(model, images, classes, samples=100)
    (node,) = write(source, tmp_path)["float_nodes"]
    assert "head" in node
    given = onnx_int8.load(tmp_path)(images)["probabilities"].argmax(axis=1)
    assert (given == classes).mean() >= 0.99


def test_what_no_float_node_can_save_is_not_published(tmp_path: Path, trained: Any) -> None:
    """One channel has values around 4000, the others have small ones: no range suits both."""
    model, images, classes = trained
    damaged = keras.models.clone_model(model)
    *weights, bias, head, head_bias = model.get_weights()
    offset = np.zeros_like(bias)
    offset[0] = 4e3
    damaged.set_weights([*weights, bias + offset, head, head_bias - offset @ head])
    with pytest.raises(ExportError, match="onnx_int8 loses too much: its top-1 accuracy is"):
        export(
            damaged,
            tmp_path / "damaged",
            labels=list("abcde"),
            formats=["onnx_int8"],
            samples=("test", (images, classes)),
        )
    assert list(tmp_path.iterdir()) == []
