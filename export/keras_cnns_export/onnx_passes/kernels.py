"""Passes that replace operations that are slow or wrong in ONNX Runtime.

In ONNX Runtime, LRN takes half of GoogLeNet's time, and a Pad makes the graph leave the blocked
memory layout. ONNX Runtime also fuses a Pad of zeros into a following MaxPool, which is wrong,
because a MaxPool pads with minus infinity.
"""

from typing import Any

import numpy as np
from onnx import helper

from keras_cnns_export.onnx_passes.graph import Graph, attributes


def normalize_by_convolution(graph: Graph, node: Any) -> bool:
    """Replace an LRN with exponent 3/4 by a 1x1 convolution, square roots and a division.

    The convolution sums the squares in the window: x / (k + a sum(x^2))^0.75 = x / (s sqrt(s)),
    with s = sqrt(k + a sum(x^2)).
    """
    if node.op_type != "LRN":
        return False
    values, sizes = attributes(node), graph.sizes(node.input[0])
    if not np.isclose(values.get("beta", 0.75), 0.75) or not sizes or not sizes[0]:
        return False
    size, channels = values["size"], sizes[0]
    rows, columns = np.indices((channels, channels))
    window = (columns - rows >= -((size - 1) // 2)) & (columns - rows <= size // 2)
    band = (values.get("alpha", 1e-4) / size * window).astype(np.float32)
    kernel = graph.add_constant(f"{node.name}_window", band[..., np.newaxis, np.newaxis])
    bias = np.full(channels, values.get("bias", 1.0), np.float32)
    (x,), (y,) = node.input, node.output
    square, total, root, fourth, divisor = (f"{y}_{index}" for index in range(5))
    graph.replace(
        node,
        _node("Mul", [x, x], square),
        _node("Conv", [square, kernel, graph.add_constant(f"{node.name}_bias", bias)], total),
        _node("Sqrt", [total], root),
        _node("Sqrt", [root], fourth),
        _node("Mul", [root, fourth], divisor),
        _node("Div", [x, divisor], y),
    )
    return True


def subsample_by_convolution(graph: Graph, node: Any) -> bool:
    """Compute the option A shortcut (He et al. 2015) with one convolution.

    The shortcut selects every second pixel, by an average pool with windows of one pixel
    (`keras_cnns.models.cpu_kernels.subsample`), and pads the channels with zeros. The kernel of the
    new convolution is the identity. The convolution stays in the blocked layout, and ONNX Runtime
    fuses the following sum into it.
    """
    before = graph.producer(node.input[0]) if node.op_type == "Pad" else None
    pads = graph.value(node.input[1]) if before is not None else None
    if before is None or before.op_type != "AveragePool" or pads is None or len(pads) != 8:
        return False
    pool, sizes = attributes(before), graph.sizes(before.input[0])
    if (
        pool["kernel_shape"] != [1, 1]
        or any(pool.get("pads", []))
        or pads[[0, 2, 3, 4, 6, 7]].any()  # the Pad affects other axes than the channels
        or not _pads_zeros(graph, node)
        or graph.only_consumer(before.output[0]) is not node
        or not sizes
        or not sizes[0]
    ):
        return False
    identity = np.eye(sizes[0], dtype=np.float32)
    kernel = np.pad(identity, ((int(pads[1]), int(pads[5])), (0, 0)))[..., np.newaxis, np.newaxis]
    name = graph.add_constant(f"{node.name}_identity", kernel)
    strides = pool.get("strides", [1, 1])
    graph.replace(node, _node("Conv", [before.input[0], name], node.output[0], strides=strides))
    return True


def pad_in_pool(graph: Graph, node: Any) -> bool:
    """Replace a Pad of zeros before a MaxPool by the pool's own padding, with the same result.

    The pool pads with minus infinity. After a ReLU, both paddings give the same result. Otherwise
    the zeros matter: for each window that reaches into the padding, the new graph computes the
    maximum of the pool's result and 0.
    The Pad cannot stay, because ONNX Runtime's PadFusion (microsoft/onnxruntime#18136) would remove
    it as if both paddings were equal.
    """
    before = graph.producer(node.input[0]) if node.op_type == "MaxPool" else None
    pads = graph.value(before.input[1]) if before is not None and before.op_type == "Pad" else None
    if before is None or pads is None or len(pads) != 8 or pads[[0, 1, 4, 5]].any():
        return False
    pool = attributes(node)
    source, sizes = graph.producer(before.input[0]), graph.sizes(before.input[0])
    is_positive = source is not None and source.op_type == "Relu"
    around = pads[[2, 3, 6, 7]]  # top, left, bottom, right
    if (
        not (is_positive or (len(sizes) == 3 and all(sizes[1:])))
        or not _pads_zeros(graph, before)
        or any(pool.get("pads", []))
        or pool.get("ceil_mode")  # ONNX would drop a window that begins in the pool's padding
        or pool.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
        or around.min() < 0
        # `2 * [height, width]` is [height, width, height, width]: the size of the kernel along the
        # axis of each padding in `around`.
        or (around >= 2 * pool["kernel_shape"]).any()
        or graph.only_consumer(before.output[0]) is not node
    ):
        return False
    kept = {key: value for key, value in pool.items() if key not in ("pads", "auto_pad")}
    maxima = node.output[0] if is_positive else f"{node.output[0]}_inside"
    padded = _node("MaxPool", [before.input[0]], maxima, **kept, pads=around.tolist())
    if is_positive:
        graph.replace(node, padded)
    else:
        border = graph.add_constant(f"{maxima}_border", _border(sizes[1:], around, kept))
        graph.replace(node, padded, _node("Max", [maxima, border], node.output[0]))
    return True


def _border(sizes: list[int], around: Any, pool: dict[str, Any]) -> Any:
    """Return an array with 0 where a pool's window overlaps the padding, else minus infinity.

    Args:
        sizes: H and W before the padding.
        around: the padding at the top, left, bottom and right.
        pool: the attributes of the MaxPool.

    Returns:
        float32 [1, 1, H', W'] for the pool's output [N, C, H', W'].
    """
    reaches = []
    for axis, size in enumerate(sizes):
        before, after = int(around[axis]), int(around[axis + 2])
        reach = (pool["kernel_shape"][axis] - 1) * pool.get("dilations", [1, 1])[axis]
        stride = pool.get("strides", [1, 1])[axis]
        starts = np.arange(-before, size + after - reach, stride)
        reaches.append((starts < 0) | (starts + reach >= size))
    outside = reaches[0][:, np.newaxis] | reaches[1]
    return np.where(outside, 0, -np.inf).astype(np.float32)[np.newaxis, np.newaxis]


def _pads_zeros(graph: Graph, pad: Any) -> bool:
    mode = attributes(pad).get("mode", b"constant")
    fills = [graph.value(name) for name in pad.input[2:3] if name]
    return mode == b"constant" and all(fill is not None and not fill for fill in fills)


def _node(operation: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    return helper.make_node(operation, inputs, [output], output, **attributes)
