"""Passes on the layout: the graph works with channels first from its beginning to its end."""

from typing import Any

import numpy as np
from onnx import helper

from keras_cnns_export.onnx_passes.graph import Graph, rewired

_TO_CHANNELS_FIRST, _TO_CHANNELS_LAST = [0, 3, 1, 2], [0, 2, 3, 1]
# Operations that commute with a Transpose.
_ELEMENTWISE = ("Cast", "Slice", "Mul", "Add", "Sub", "Div")


def transpose_first(graph: Graph, node: Any) -> bool:
    """Swap a Transpose from NHWC to NCHW with the elementwise node before it."""
    if _permutation(node) != _TO_CHANNELS_FIRST:
        return False
    before = graph.producer(node.input[0])
    if before is None or before.op_type not in _ELEMENTWISE:
        return False
    if graph.only_consumer(before.output[0]) is not node:
        return False
    source, constants = graph.variable_and_constants(before)
    values = [graph.value(name) for name in constants]
    if source is None or len(graph.sizes(source)) != 3:
        return False
    if before.op_type == "Slice":
        if len(values) < 3:  # the third constant contains the axes, which are optional
            return False
        values[2] = np.array(
            [_TO_CHANNELS_FIRST.index(axis % 4) for axis in values[2]], values[2].dtype
        )
    elif any(value.ndim > 1 and value.shape[:-1].count(1) < value.ndim - 1 for value in values):
        return False
    else:
        values = [value.reshape(-1, 1, 1) if value.size > 1 else value for value in values]
    names = [graph.add_constant(f"{before.name}_first", value) for value in values]
    middle = f"{before.output[0]}_first"
    inputs = [middle, *names] if before.input[0] == source else [*names, middle]
    graph.replace(node)
    graph.replace(
        before, rewired(node, [source], [middle]), rewired(before, inputs, list(node.output))
    )
    return True


def flatten_channels_first(graph: Graph, node: Any) -> bool:
    """Remove the Transpose before a Flatten and a Dense; reorder the kernel's rows instead."""
    flatten = graph.producer(node.input[0]) if node.op_type == "MatMul" else None
    kernel = graph.value(node.input[1]) if flatten is not None else None
    if flatten is None or flatten.op_type != "Reshape" or kernel is None or kernel.ndim != 2:
        return False
    transpose = graph.producer(flatten.input[0])
    if transpose is None or _permutation(transpose) != _TO_CHANNELS_LAST:
        return False
    sizes = graph.sizes(transpose.input[0])  # C, H, W
    # The flattened value must be a matrix: one dimension besides the batch dimension.
    if np.prod(sizes) != len(kernel) or len(graph.sizes(flatten.output[0])) != 1:
        return False
    if graph.only_consumer(flatten.output[0]) is not node:
        return False
    channels, height, width = sizes
    rows = kernel.reshape(height, width, channels, -1).transpose(2, 0, 1, 3).reshape(kernel.shape)
    shape = graph.add_constant(f"{flatten.name}_shape", np.array([-1, len(kernel)], np.int64))
    flat = helper.make_node("Reshape", [transpose.input[0], shape], flatten.output, flatten.name)
    graph.replace(flatten, flat)
    node.input[1] = graph.add_constant(f"{node.name}_kernel", rows)
    return True


def _permutation(node: Any) -> list[int] | None:
    """Return the axes of a Transpose; None for another node, or for a Transpose without axes."""
    has_axes = node.op_type == "Transpose" and node.attribute
    return list(node.attribute[0].ints) if has_axes else None
