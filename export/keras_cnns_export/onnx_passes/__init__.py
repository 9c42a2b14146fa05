"""Passes that make tf2onnx's graph faster without changing its function.

The converter leaves a Transpose after the cast of the input, and a Mul and an Add where Keras
composes batch normalization from small operations. The passes move the Transpose before the cast,
and fold the Mul and the Add into the preceding convolution. If this is not possible, they turn the
Mul and the Add into a BatchNormalization, for which ONNX Runtime keeps tensors in its blocked
memory layout. A pass rewrites a node only if the known shapes prove that the result is equal.
"""

from collections.abc import Callable
from typing import Any

from keras_cnns_export.onnx_passes.graph import Graph
from keras_cnns_export.onnx_passes.kernels import (
    normalize_by_convolution,
    pad_in_pool,
    subsample_by_convolution,
)
from keras_cnns_export.onnx_passes.layout import flatten_channels_first, transpose_first
from keras_cnns_export.onnx_passes.normalization import (
    as_batch_normalization,
    fold_into_convolution,
)

# A pass rewrites the graph around a node and returns True, or changes nothing and returns False.
_PASSES: tuple[Callable[[Graph, Any], bool], ...] = (
    transpose_first,
    fold_into_convolution,
    as_batch_normalization,
    flatten_channels_first,
    normalize_by_convolution,
    subsample_by_convolution,
    pad_in_pool,
)


def simplify(model: Any) -> None:
    """Apply every pass to an onnx.ModelProto, in place."""
    graph = Graph(model)
    for apply in _PASSES:
        while any(apply(graph, node) for node in list(graph.graph.node)):
            pass
    graph.drop_unused()
