"""A model whose graph is valid, small, and never done."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.serve.conftest import write_version


def endless_graph(side: int = 8) -> bytes:
    """Return uint8 [N, side, side, 1] -> probabilities [N, 10], after 2^62 iterations of a loop.

    The number of iterations depends on the input, so that no optimiser runs the loop at load.
    """
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["still"]),
            helper.make_node("Identity", ["x"], ["y"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 10]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10]),
        ],
    )
    constants = {
        "many": np.array(2**62),
        "true": np.array(True),
        "flat": np.array([-1, side * side]),
        "weights": np.zeros((side * side, 10), np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["pixels", "flat"], ["rows"]),
        helper.make_node("MatMul", ["rows", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["soft"], axis=1),
        helper.make_node("ReduceMax", ["rows"], ["brightest"], keepdims=0),
        helper.make_node("Cast", ["brightest"], ["extra"], to=TensorProto.INT64),
        helper.make_node("Add", ["many", "extra"], ["iterations"]),
        helper.make_node("Loop", ["iterations", "true", "soft"], ["probabilities"], body=body),
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "endless",
            [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", side, side, 1])],
            [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 10])],
            [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def publish_endless(version: Path, name: str = "endless") -> None:
    """Write a version with the endless graph, and rename it into place as an exporter does."""
    version.parent.mkdir(exist_ok=True)
    write_version(version.parent / "writing", endless_graph(), name=name).rename(version)
