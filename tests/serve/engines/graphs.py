"""Graphs that take for ever: uint8 [N, 8, 8, 1] -> probabilities [N, 10]."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

FLOAT = TensorProto.FLOAT
LOGITS = [
    helper.make_node("Cast", ["images"], ["pixels"], to=FLOAT),
    helper.make_node("Flatten", ["pixels"], ["rows"]),
    helper.make_node("MatMul", ["rows", "weights"], ["logits"]),
]


def endless_graph() -> bytes:
    """Return a graph whose run never ends: a loop whose condition, which depends on the images, is
    always true."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["go_on_after"]),
            helper.make_node("Sin", ["value"], ["value_after"]),
        ],
        "body",
        [
            value("iteration", TensorProto.INT64, []),
            value("go_on", TensorProto.BOOL, []),
            value("value", FLOAT, ["N", 10]),
        ],
        [value("go_on_after", TensorProto.BOOL, []), value("value_after", FLOAT, ["N", 10])],
    )
    return _graph(
        *LOGITS,
        helper.make_node("ReduceMax", ["logits"], ["top"], keepdims=0),
        helper.make_node("LessOrEqual", ["top", "huge"], ["forever"]),
        helper.make_node("Loop", ["", "forever", "logits"], ["last"], body=body),
        huge=np.array(1e30, np.float32),
    )


def constant_graph() -> bytes:
    """Return a graph whose constant part takes minutes, and each of its operators little."""
    return _graph(
        *LOGITS,
        helper.make_node("ConstantOfShape", ["shape"], ["power0"]),
        *(helper.make_node("MatMul", [f"power{i}"] * 2, [f"power{i + 1}"]) for i in range(2000)),
        helper.make_node("ReduceMax", ["power2000"], ["top"], keepdims=0),
        helper.make_node("Add", ["logits", "top"], ["last"]),
        shape=np.array([1500, 1500]),
    )


def _graph(*nodes: NodeProto, **constants: NDArray[Any]) -> bytes:
    constants["weights"] = np.zeros((64, 10), np.float32)
    value = helper.make_tensor_value_info
    model = helper.make_model(
        helper.make_graph(
            [*nodes, helper.make_node("Softmax", ["last"], ["probabilities"])],
            "slow",
            [value("images", TensorProto.UINT8, ["N", 8, 8, 1])],
            [value("probabilities", FLOAT, ["N", 10])],
            [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())
