"""Passes that make tf2onnx's graph faster without changing what it computes.

The converter leaves a Transpose after the cast of the input, and a Mul and an Add where Keras
composes batch normalization from small operations. They are folded into the preceding convolution
or become a BatchNormalization, for which ONNX Runtime keeps its blocked layout. A pass rewrites
only what the known shapes prove to be equal; every other node stays as it is.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from keras_cnns_export.onnx_kernels import (
    normalize_by_convolution,
    pad_in_pool,
    subsample_by_convolution,
)

TO_CHANNELS_FIRST, TO_CHANNELS_LAST = [0, 3, 1, 2], [0, 2, 3, 1]
_BEFORE = ("Cast", "Slice", "Mul", "Add", "Sub", "Div")  # they commute with a Transpose


class _Graph:
    """A model's graph with an index of its constants, consumers and shapes."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.graph = model.graph
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.outputs = {output.name for output in self.graph.output}
        self._sizes: dict[str, list[int]] = {}  # a pass never changes the value that a name denotes

    def maker(self, name: str) -> Any:
        return next((node for node in self.graph.node if name in node.output), None)

    def consumers(self, name: str) -> list[Any]:
        return [node for node in self.graph.node if name in _reads(node)]

    def only_consumer(self, name: str) -> Any:
        """Return the single node that reads a value, or None; also None for an output."""
        consumers = self.consumers(name)
        return consumers[0] if len(consumers) == 1 and name not in self.outputs else None

    def value(self, name: str) -> Any:
        """Return a constant's value, or None."""
        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def sizes(self, name: str) -> list[int]:
        """Return a value's shape without the batch: 0 for an unknown size, [] for no shape."""
        if name not in self._sizes:
            inferred = onnx.shape_inference.infer_shapes(self.model).graph
            self._sizes |= {
                tensor.name: [size.dim_value for size in tensor.type.tensor_type.shape.dim][1:]
                for tensor in (*inferred.value_info, *inferred.input)
            }
        return self._sizes.setdefault(name, [])  # not inferred again for the same name

    def add_constant(self, name: str, value: Any) -> str:
        while name in self.constants:
            name += "_"
        self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        self.constants[name] = self.graph.initializer[-1]
        return name

    def replace(self, node: Any, *others: Any) -> None:
        """Replace one node by others."""
        index = list(self.graph.node).index(node)
        self.graph.node.remove(node)
        for offset, other in enumerate(others):
            self.graph.node.insert(index + offset, other)

    def drop_unused(self) -> None:
        """Remove the nodes and constants that no output depends on."""
        used = set(self.outputs)
        for node in reversed(list(self.graph.node)):  # the nodes are in topological order
            if used.isdisjoint(node.output):
                self.graph.node.remove(node)
            else:
                used.update(_reads(node))
        for name in set(self.constants) - used - self.outputs:
            self.graph.initializer.remove(self.constants.pop(name))


def simplify(model: Any) -> None:
    """Apply every pass to an onnx.ModelProto, in place."""
    graph = _Graph(model)
    for apply in PASSES:
        while any(apply(graph, node) for node in list(graph.graph.node)):
            pass
    graph.drop_unused()


def transpose_first(graph: _Graph, node: Any) -> bool:
    """Exchange a Transpose to channels first with the elementwise node before it."""
    if _permutation(node) != TO_CHANNELS_FIRST:
        return False
    before = graph.maker(node.input[0])
    if before is None or before.op_type not in _BEFORE:
        return False
    if graph.only_consumer(before.output[0]) is not node:
        return False
    source, *others = _constants_last(graph, before)
    values = [graph.value(name) for name in others]
    if source is None or any(value is None for value in values) or len(graph.sizes(source)) != 3:
        return False
    if before.op_type == "Slice":
        if len(values) < 3:  # without axes, which are its third constant
            return False
        values[2] = np.array(
            [TO_CHANNELS_FIRST.index(axis % 4) for axis in values[2]], values[2].dtype
        )
    elif any(value.ndim > 1 and value.shape[:-1].count(1) < value.ndim - 1 for value in values):
        return False
    else:
        values = [value.reshape(-1, 1, 1) if value.size > 1 else value for value in values]
    names = [graph.add_constant(f"{before.name}_first", value) for value in values]
    middle = f"{before.output[0]}_first"
    first = helper.make_node("Transpose", [source], [middle], node.name, perm=TO_CHANNELS_FIRST)
    inputs = [middle, *names] if before.input[0] == source else [*names, middle]
    second = helper.make_node(before.op_type, inputs, list(node.output), before.name)
    second.attribute.extend(before.attribute)
    graph.replace(node)
    graph.replace(before, first, second)
    return True


def fold_into_convolution(graph: _Graph, node: Any) -> bool:
    """Fold a Mul, an Add or a BatchNormalization into the convolution before it."""
    affine = _affine(graph, node)
    if affine is None:
        return False
    source, scale, offset = affine
    conv = graph.maker(source)
    if conv is None or conv.op_type != "Conv" or graph.only_consumer(source) is not node:
        return False
    kernel = graph.value(conv.input[1])
    bias = graph.value(conv.input[2]) if len(conv.input) > 2 else np.zeros(1, np.float32)
    if kernel is None or bias is None or kernel.ndim != 4:
        return False
    if max(scale.size, offset.size) not in (1, len(kernel)):
        return False
    scale, bias = (np.broadcast_to(value, len(kernel)) for value in (scale, bias))
    folded = {"kernel": kernel * scale.reshape(-1, 1, 1, 1), "bias": bias * scale + offset}
    names = [
        graph.add_constant(f"{conv.name}_{part}", np.asarray(value, np.float32))
        for part, value in folded.items()
    ]
    other = helper.make_node("Conv", [conv.input[0], *names], list(node.output), conv.name)
    other.attribute.extend(conv.attribute)
    graph.replace(conv)
    graph.replace(node, other)
    return True


def as_batch_normalization(graph: _Graph, node: Any) -> bool:
    """Turn a Mul and an Add by channel into a BatchNormalization with mean 0 and variance 1.

    The source must be known to have as many channels as the scale: with fewer the Mul broadcasts,
    as in a LayerNormalization, whose reciprocal deviation [N, 1, H, W] is multiplied by gamma.
    """
    channelwise = _channelwise(graph, node) if node.op_type == "Mul" else None
    if channelwise is None or channelwise[1].size == 1:
        return False
    source, scale = channelwise
    sizes = graph.sizes(source)
    if len(sizes) != 3 or sizes[0] != scale.size:
        return False
    follower = graph.only_consumer(node.output[0])
    addend = None if follower is None else _channelwise(graph, follower)
    offset, last = np.zeros_like(scale), node
    if follower is not None and follower.op_type == "Add" and addend is not None:
        offset, last = np.broadcast_to(addend[1], scale.shape), follower
    ones, zeros = np.ones_like(scale), np.zeros_like(scale)
    parts = {"scale": scale, "offset": offset, "mean": zeros, "variance": ones}
    names = [graph.add_constant(f"{node.name}_{part}", value) for part, value in parts.items()]
    normalization = helper.make_node(
        "BatchNormalization", [source, *names], list(last.output), node.name, epsilon=0.0
    )
    if last is not node:
        graph.replace(node)
    graph.replace(last, normalization)
    return True


def flatten_channels_first(graph: _Graph, node: Any) -> bool:
    """Flatten channels first before a Dense layer, and reorder the rows of its kernel instead."""
    flatten = graph.maker(node.input[0]) if node.op_type == "MatMul" else None
    kernel = graph.value(node.input[1]) if flatten is not None else None
    if flatten is None or flatten.op_type != "Reshape" or kernel is None or kernel.ndim != 2:
        return False
    transpose = graph.maker(flatten.input[0])
    if transpose is None or _permutation(transpose) != TO_CHANNELS_LAST:
        return False
    sizes = graph.sizes(transpose.input[0])  # C, H, W
    if np.prod(sizes) != len(kernel) or len(graph.sizes(flatten.output[0])) != 1:  # a matrix
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


PASSES: tuple[Callable[[_Graph, Any], bool], ...] = (
    transpose_first,
    fold_into_convolution,
    as_batch_normalization,
    flatten_channels_first,
    normalize_by_convolution,
    subsample_by_convolution,
    pad_in_pool,
)


def _reads(node: Any) -> Iterator[str]:
    """Yield the names that a node reads, those inside the bodies of an If or a Loop included."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _reads(inner)


def _permutation(node: Any) -> list[int] | None:
    """Return the axes of a Transpose; None for another node, or for the default, which reverses."""
    is_given = node.op_type == "Transpose" and node.attribute
    return list(node.attribute[0].ints) if is_given else None


def _constants_last(graph: _Graph, node: Any) -> list[Any]:
    """The inputs of a node of one variable input, that one first; [None] for others."""
    variable = [name for name in node.input if name not in graph.constants]
    if len(variable) != 1:
        return [None]
    return [variable[0], *(name for name in node.input if name in graph.constants)]


def _affine(graph: _Graph, node: Any) -> tuple[str, Any, Any] | None:
    """What a node reads, and the scale and offset by channel that are all it does, or None."""
    if node.op_type == "BatchNormalization":
        parts = [graph.value(name) for name in node.input[1:]]
        if any(part is None for part in parts):
            return None
        scale, offset, mean, variance = (part.astype(np.float64) for part in parts)
        attributes = {each.name: each.f for each in node.attribute}
        scale = scale / np.sqrt(variance + attributes.get("epsilon", 1e-5))
        return node.input[0], scale, offset - mean * scale
    channelwise = _channelwise(graph, node)
    if channelwise is None:
        return None
    source, value = channelwise
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    return (source, value, zero) if node.op_type == "Mul" else (source, one, value)


def _channelwise(graph: _Graph, node: Any) -> tuple[str, Any] | None:
    """What a Mul or Add reads, and its constant [C] or [1]; None unless that is by channel.

    Not the scaling of the input, behind its cast: there is no normalisation.
    """
    if node.op_type not in ("Mul", "Add"):
        return None
    source, *constants = _constants_last(graph, node)
    value = graph.value(constants[0]) if len(constants) == 1 else None
    maker = graph.maker(source) if source else None
    if maker is None or maker.op_type in ("Cast", "Slice"):
        return None
    if value is None or value.dtype != np.float32:
        return None
    of_channels = value.ndim in (3, 4) and value.shape[-3] == value.size
    return (source, value.ravel()) if of_channels else None
