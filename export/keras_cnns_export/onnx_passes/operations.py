"""Rules for TensorFlow operations that tf2onnx cannot convert itself.

An import of this module registers the rules with tf2onnx's decorator `tf_op`, for the whole
process.
"""

from typing import Any

import numpy as np
from tf2onnx.handler import tf_op


@tf_op("Erfc")
class Erfc:
    """erfc(x) = 1 - erf(x), which gelu uses since TensorFlow 2.17 (onnx/tensorflow-onnx#2347)."""

    @classmethod
    def version_9(cls, graph: Any, node: Any, **_: Any) -> None:
        """Replace a node of tf2onnx's graph; opset 9 introduced Erf."""
        erf = graph.make_node("Erf", node.input)
        _replace(graph, node, "Sub", _one(graph), erf.output[0])


@tf_op("Expm1")
class Expm1:
    """expm1(x) = exp(x) - 1, which TensorFlow's celu uses."""

    @classmethod
    def version_6(cls, graph: Any, node: Any, **_: Any) -> None:
        """Replace a node of tf2onnx's graph."""
        power = graph.make_node("Exp", node.input)
        _replace(graph, node, "Sub", power.output[0], _one(graph))


def _one(graph: Any) -> str:
    from tf2onnx.utils import make_name

    return str(graph.make_const(make_name("one"), np.ones((), np.float32)).output[0])


def _replace(graph: Any, node: Any, operation: str, *inputs: str) -> None:
    shapes, dtypes = node.output_shapes, node.output_dtypes
    graph.remove_node(node.name)
    graph.make_node(
        operation, list(inputs), outputs=node.output, name=node.name, shapes=shapes, dtypes=dtypes
    )
