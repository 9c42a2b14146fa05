import json
from pathlib import Path
from typing import Any

import keras
import onnx
import pytest
import tensorflow as tf
from keras import layers

from keras_cnns_export import ExportError, export
from keras_cnns_export.formats import onnx as float_onnx


@pytest.fixture(scope="module")
def proto(version: Path) -> Any:
    return onnx.load(version / "model.onnx")


def test_names_types_and_batch_dimension(proto: Any) -> None:
    described = {
        tensor.name: (
            onnx.TensorProto.DataType.Name(tensor.type.tensor_type.elem_type),
            [size.dim_param or size.dim_value for size in tensor.type.tensor_type.shape.dim],
        )
        for tensor in (*proto.graph.input, *proto.graph.output)
    }
    assert described == {
        "images": ("UINT8", ["N", 12, 10, 3]),
        "probabilities": ("FLOAT", ["N", 5]),
    }
    assert [(row.domain, row.version) for row in proto.opset_import if not row.domain] == [("", 17)]


def test_batch_norm_is_folded_and_no_operation_is_foreign(proto: Any) -> None:
    operations = [node.op_type for node in proto.graph.node]
    assert "BatchNormalization" not in operations
    assert {node.domain for node in proto.graph.node} == {""}


def test_labels_and_preprocessing_travel_in_the_file(proto: Any, labels: tuple[str, ...]) -> None:
    metadata = {row.key: json.loads(row.value) for row in proto.metadata_props}
    assert metadata["labels"] == list(labels)
    assert metadata["preprocessing"]["crop"] == [12, 10]


class Foreign(keras.layers.Layer):
    """An operation that ONNX does not have."""

    def call(self, x: Any) -> Any:
        return tf.math.betainc(tf.abs(x) + 1, tf.abs(x) + 1, tf.sigmoid(x))


def test_an_operation_without_a_form_in_onnx_is_an_error(
    tmp_path: Path, build_tiny: Any, labels: tuple[str, ...]
) -> None:
    model = build_tiny(head=lambda x: layers.Softmax()(Foreign()(layers.Dense(5)(x))))
    with pytest.raises(ExportError, match=r"be converted to ONNX with opset 17: .*Betainc"):
        export(model, tmp_path / "tiny", labels=labels)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("opset", [12, 19])
def test_an_opset_that_the_converter_does_not_know_is_an_error(
    opset: int, tmp_path: Path, tiny: Any, labels: tuple[str, ...]
) -> None:
    with pytest.raises(ExportError, match=f"opset {opset}: it must be from 13 to 18"):
        export(tiny, tmp_path / "tiny", labels=labels, opset=opset, formats=("onnx",))


def test_the_converters_logger_is_left_as_it_was(version: Path) -> None:
    import logging

    logger = logging.getLogger("probe")
    logger.setLevel(logging.INFO)
    with float_onnx._errors_of("probe") as errors:
        logger.info("chatter")
        logger.error("Tensorflow op %s is not supported", "X")
    assert errors == ["Tensorflow op X is not supported"]
    assert (logger.level, logger.handlers, logger.propagate) == (logging.INFO, [], True)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../secret"])
def test_external_data_may_not_leave_the_directory(
    location: str, proto: Any, tmp_path: Path
) -> None:
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    tensor = changed.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    (tmp_path / "model.onnx").write_bytes(changed.SerializeToString())
    with pytest.raises(ExportError, match="outside of its directory"):
        float_onnx.load(tmp_path)
