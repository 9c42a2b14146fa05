"""Passes that replace operations which ONNX Runtime runs slowly, or wrongly, by equal ones.

Its LRN takes half of GoogLeNet's time, its blocked layout ends at a Pad, and it fuses a Pad of
zeros into a MaxPool, which pads with minus infinity.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper

if TYPE_CHECKING:
    from keras_cnns_export.onnx_graph import _Graph


def normalize_by_convolution(graph: "_Graph", node: Any) -> bool:
    """LRN with exponent 3/4: the window's sum as a 1x1 convolution, the power as square roots.

    x / (k + a sum(x^2))^0.75 = x / (s sqrt(s)), with s = sqrt(k + a sum(x^2)).
    """
    if node.op_type != "LRN":
        return False
    values = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    sizes = graph.sizes(node.input[0])
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


def subsample_by_convolution(graph: "_Graph", node: Any) -> bool:
    """Every second pixel, and channels of zeros around (He et al. 2015's option A): a convolution.

    The pixels come from a mean over windows of one (`keras_cnns.models.cpu_kernels.subsample`).
    Its kernel is the identity; it stays in the blocked layout, and the sum after it is fused.
    """
    before = graph.maker(node.input[0]) if node.op_type == "Pad" else None
    pads = graph.value(node.input[1]) if before is not None else None
    if before is None or before.op_type != "AveragePool" or pads is None or len(pads) != 8:
        return False
    pool = {each.name: helper.get_attribute_value(each) for each in before.attribute}
    strides = pool.get("strides", [1, 1])
    of_one = pool["kernel_shape"] == [1, 1] and not any(pool.get("pads", []))
    of_channels = not pads[[0, 2, 3, 4, 6, 7]].any() and _pads_zeros(graph, node)
    sizes = graph.sizes(before.input[0])
    alone = graph.only_consumer(before.output[0]) is node
    if not (of_one and of_channels and alone and sizes and sizes[0]):
        return False
    first, after = int(pads[1]), int(pads[5])
    identity = np.eye(sizes[0], dtype=np.float32)
    kernel = np.pad(identity, ((first, after), (0, 0)))[..., np.newaxis, np.newaxis]
    name = graph.add_constant(f"{node.name}_identity", kernel)
    convolution = _node("Conv", [before.input[0], name], node.output[0])
    convolution.attribute.append(helper.make_attribute("strides", strides))
    graph.replace(node, convolution)
    return True


def pad_in_pool(graph: "_Graph", node: Any) -> bool:
    """Turn a Pad of zeros before a MaxPool into the pool's own padding, which is minus infinity.

    After a ReLU both give the same. Otherwise the zeros count: the maximum with 0 is taken where a
    window reaches into the padding. The Pad must not stay, because ONNX Runtime's PadFusion
    (microsoft/onnxruntime#18136) ignores the difference.
    """
    before = graph.maker(node.input[0]) if node.op_type == "MaxPool" else None
    pads = graph.value(before.input[1]) if before is not None and before.op_type == "Pad" else None
    if before is None or pads is None or len(pads) != 8 or pads[[0, 1, 4, 5]].any():
        return False
    values = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    source, sizes = graph.maker(before.input[0]), graph.sizes(before.input[0])
    is_positive = source is not None and source.op_type == "Relu"
    around = pads[[2, 3, 6, 7]]
    if (
        not (is_positive or (len(sizes) == 3 and all(sizes[1:])))
        or not _pads_zeros(graph, before)
        or any(values.get("pads", []))
        or values.get("ceil_mode")  # a window that begins in the padding would be left out
        or values.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
        or around.min() < 0
        or (around >= 2 * values["kernel_shape"]).any()  # of both begins, then of both ends
        or graph.only_consumer(before.output[0]) is not node
    ):
        return False
    maxima = node.output[0] if is_positive else f"{node.output[0]}_inside"
    pool = _node("MaxPool", [before.input[0]], maxima)
    kept = {key: value for key, value in values.items() if key not in ("pads", "auto_pad")}
    for key, value in {**kept, "pads": around.tolist()}.items():
        pool.attribute.append(helper.make_attribute(key, value))
    graph.replace(node, pool)
    if not is_positive:
        border = graph.add_constant(f"{maxima}_border", _border(sizes[1:], around, kept))
        index = list(graph.graph.node).index(pool)
        graph.graph.node.insert(index + 1, _node("Max", [maxima, border], node.output[0]))
    return True


def _border(sizes: list[int], around: Any, pool: dict[str, Any]) -> Any:
    """Return 0 where a pool's window reaches into the padding, and minus infinity elsewhere.

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


def _pads_zeros(graph: "_Graph", pad: Any) -> bool:
    modes = [each.s for each in pad.attribute if each.name == "mode"]
    fills = [graph.value(name) for name in pad.input[2:3] if name]
    return modes in ([], [b"constant"]) and all(fill is not None and not fill for fill in fills)


def _node(operation: str, inputs: list[str], output: str) -> Any:
    return helper.make_node(operation, inputs, [output], output)
