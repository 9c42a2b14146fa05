"""Passes that fold batch normalization into a convolution, or express it by a single node."""

from typing import Any

import numpy as np
from onnx import helper

from keras_cnns_export.onnx_passes.graph import Graph, attributes, rewired


def fold_into_convolution(graph: Graph, node: Any) -> bool:
    """Fold a Mul, an Add or a BatchNormalization into the convolution before it."""
    affine = _affine(graph, node)
    if affine is None:
        return False
    source, scale, offset = affine
    conv = graph.producer(source)
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
    graph.replace(conv)
    graph.replace(node, rewired(conv, [conv.input[0], *names], list(node.output)))
    return True


def as_batch_normalization(graph: Graph, node: Any) -> bool:
    """Replace a channelwise Mul and Add by a BatchNormalization with mean 0 and variance 1.

    The source must be known to have as many channels as the scale. If it has fewer channels, the
    Mul broadcasts it to the shape of the scale, which a BatchNormalization cannot do. This occurs
    in a LayerNormalization, where the source is the reciprocal of the standard deviation, of shape
    [N, 1, H, W], and the scale is gamma.
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


def _affine(graph: Graph, node: Any) -> tuple[str, Any, Any] | None:
    """Return x, scale and offset of a node that computes x * scale + offset; None for others.

    Scale and offset are [C] or [1].
    """
    if node.op_type == "BatchNormalization":
        parts = [graph.value(name) for name in node.input[1:]]
        if any(part is None for part in parts):
            return None
        scale, offset, mean, variance = (part.astype(np.float64) for part in parts)
        scale = scale / np.sqrt(variance + attributes(node).get("epsilon", 1e-5))
        return node.input[0], scale, offset - mean * scale
    channelwise = _channelwise(graph, node)
    if channelwise is None:
        return None
    source, value = channelwise
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    return (source, value, zero) if node.op_type == "Mul" else (source, one, value)


def _channelwise(graph: Graph, node: Any) -> tuple[str, Any] | None:
    """Return the input of a Mul or Add and its constant [C] or [1], or None for another node.

    Return None as well for the scaling of the graph's input, which follows the Cast of the input
    and is no normalization.
    """
    if node.op_type not in ("Mul", "Add"):
        return None
    source, constants = graph.variable_and_constants(node)
    if source is None or len(constants) != 1:
        return None
    value, producer = graph.value(constants[0]), graph.producer(source)
    if producer is None or producer.op_type in ("Cast", "Slice") or value.dtype != np.float32:
        return None
    is_channelwise = value.ndim in (3, 4) and value.shape[-3] == value.size
    return (source, value.ravel()) if is_channelwise else None
