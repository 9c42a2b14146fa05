"""What every origin of weights says of itself: how to know its files, and where a tensor goes."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras

from keras_cnns.models.resnet import ARCHITECTURES, bottleneck_v1
from keras_cnns.weights.files import Array

BLOCK = r"stage(?P<stage>\d+)_block(?P<block>\d+)_"  # how the names of a block's layers begin
Rule = tuple[str, str]  # pattern of our layer's name, and a template of the file's


def unchanged(tensor: Array, *rest: Array) -> Array:
    """Return the tensor."""
    return tensor


class Source(NamedTuple):
    """Where a variable of ours comes from.

    The first of the names is the tensor that becomes the variable. The others, each of the
    variable's shape, are what the file's net adds elsewhere and ours has folded into it.
    """

    names: tuple[str, ...]
    convert: Callable[..., Array] = unchanged  # from the named tensors to the variable's value


class Place(NamedTuple):
    """A variable of ours."""

    layer: keras.layers.Layer
    variable: str  # kernel, bias, gamma, beta, moving_mean, moving_variance
    blocks: Mapping[int, int]  # residual blocks in each stage of the net, stages from 1


@dataclass(frozen=True)
class Origin:
    """One row of the table of origins."""

    title: str
    signature: str  # pattern of a tensor's name that these files have, and others do not
    layouts: tuple[str, ...]  # of LAYOUTS, those that compute what the file's net computes
    source: Callable[[Place], Source | None]
    heads: str  # pattern of the heads' tensors: left in the file where the net has no such head
    stem: str  # the first convolution's kernel
    channels_axis: int  # of the stem's kernel: where it counts the images' channels
    classifier: str  # the main classifier's bias
    block: str = r"(?!)"  # pattern of a block's tensors, with the groups `stage` and `block`
    first_block: tuple[int, int] = (1, 1)  # what the file counts stages and blocks from
    ignored: str = r"(?!)"  # pattern of tensors that no net needs for its answer


LAYOUTS = {
    "googlenet": "has biases and no batch normalisation",
    "googlenet_bn": "has 5x5 convolutions, as the paper",
    "googlenet_tv": "has 3x3 convolutions where the paper has 5x5",
    "resnet": "normalises after each convolution and strides in a stage's first 3x3",
    "resnet_v1": "normalises after each convolution and strides in a stage's first 1x1",
    "resnet_v2": "normalises before each convolution and strides in a stage's first block",
    "resnet_v2_keras": "normalises before each convolution and strides in a stage's last block",
}


def layout_of(model: keras.Model) -> str | None:
    """Return the key of LAYOUTS that describes a model; None for one that is not ours."""
    layers = {layer.name: layer for layer in model.layers}
    if "inception_3a_5x5_conv" in layers:
        if "conv1_bn" not in layers:
            return "googlenet"
        wide = layers["inception_3a_5x5_conv"].kernel_size[0]
        return "googlenet_tv" if wide == 3 else "googlenet_bn"
    if "stage2_block1_conv1" not in layers:
        return None
    if "final_bn" in layers:
        return "resnet_v2_keras" if layers["stem_conv"].use_bias else "resnet_v2"
    first = layers["stage2_block1_conv1"]
    return "resnet_v1" if (*first.kernel_size, *first.strides) == (1, 1, 2, 2) else "resnet"


def blocks_of(
    names: Iterable[str], pattern: str, first: tuple[int, int] = (1, 1)
) -> dict[int, int]:
    """Return how many residual blocks each stage has, stages from 1.

    Args:
        names: of layers or tensors.
        pattern: of those in a block, with its numbers as the groups `stage` and `block`.
        first: the numbers of the first stage's first block.
    """
    blocks: dict[int, int] = {}
    for match in filter(None, (re.match(pattern, name) for name in names)):
        stage = int(match["stage"]) - first[0] + 1
        blocks[stage] = max(blocks.get(stage, 0), int(match["block"]) - first[1] + 1)
    return blocks


def nets_that_fit(layouts: tuple[str, ...], blocks: Mapping[int, int]) -> list[str]:
    """Return the registry's nets of a layout with so many residual blocks in each stage."""
    if not blocks:
        return list(layouts)
    fitting = []
    for name, row in ARCHITECTURES.items():
        layout = "resnet_v1" if row.block is bottleneck_v1 else "resnet"
        if row.preactivation:
            layout = "resnet_v2_keras" if row.stride_at_end else "resnet_v2"
        counts = dict(enumerate(row.blocks, start=1))
        if layout in layouts and counts == blocks and row.shortcut == "projection":
            fitting.append(name)
    return fitting


def translate(name: str, rules: Iterable[Rule]) -> str | None:
    """Return the file's name for a layer of ours, by the rule that matches; None if none does.

    A template takes the pattern's groups by name, and those that are numbers also one lower and
    one higher, as `block_before` and `block_after`: some count from 0.
    """
    for pattern, template in rules:
        if match := re.fullmatch(pattern, name):
            words: dict[str, Any] = dict(match.groupdict())
            for key, text in match.groupdict().items():
                if text.isdecimal():
                    words |= {f"{key}_before": int(text) - 1, f"{key}_after": int(text) + 1}
            return template.format(**words)
    return None
