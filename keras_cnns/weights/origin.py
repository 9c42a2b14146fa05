"""Describe an origin of weights: how to recognize its files, and which tensor belongs to which
variable.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras

from keras_cnns.models.googlenet import VARIANTS
from keras_cnns.models.resnet import ARCHITECTURES, bottleneck_v1
from keras_cnns.weights.checkpoint import Architecture, Array, Tensors

BLOCK = r"stage(?P<stage>\d+)_block(?P<block>\d+)_"  # how the names of a block's layers begin
Rule = tuple[str, str]  # pattern of the name of our layer, and a template of the name in the file


def unchanged(tensor: Array, *rest: Array) -> Array:
    """Return the tensor."""
    return tensor


class Source(NamedTuple):
    """The tensors that one variable is computed from.

    The first of the names is the tensor that becomes the variable. The others are extra tensors
    that are folded into this variable, each of its shape.
    """

    names: tuple[str, ...]
    convert: Callable[..., Array] = unchanged  # from the named tensors to the variable's value


class Place(NamedTuple):
    """A variable of one of our networks."""

    layer: str  # the layer's name
    variable: str  # kernel, bias, gamma, beta, moving_mean, moving_variance
    shape: tuple[int, ...]
    blocks: Mapping[int, int]  # number of residual blocks in each stage, stages from 1


@dataclass(frozen=True)
class Origin:
    """One row of the table of origins."""

    title: str
    signature: str  # pattern of a tensor's name that these files have, and others do not
    layouts: tuple[str, ...]  # of LAYOUTS, those that compute what the file's network computes
    source: Callable[[Place], Source | None]
    heads: str  # pattern of the tensors of heads, which are ignored if the model lacks the head
    stem: str  # the first convolution's kernel
    channels_axis: int  # axis of the stem's kernel that counts the channels of the images
    classifier: str  # the main classifier's bias
    block: str = r"(?!)"  # pattern of a block's tensors, with the groups `stage` and `block`
    first_block: tuple[int, int] = (1, 1)  # the file's numbers of the first stage and block
    ignored: str = r"(?!)"  # pattern of tensors that no model needs for its output
    synonym: Rule = (r"(?!)", "")  # pattern of another spelling of names, and its replacement
    # Returns the differences between the file's network and ours, from the names of its tensors
    # and of its architecture.
    differences: Callable[[Iterable[str], Architecture | None], list[str]] = lambda *_: []

    def channels(self, tensors: Tensors) -> int | None:
        """Return the number of channels of the images that the file's network reads."""
        stem = tensors.get(self.stem)
        return stem.shape[self.channels_axis] if stem is not None and stem.ndim == 4 else None

    def without_synonyms(self, tensors: Tensors) -> Tensors:
        """Return the tensors by their usual names, unless another tensor has or gets that name."""
        usual = {name: re.sub(*self.synonym, name) for name in tensors}
        taken = Counter(usual.values())
        return {
            usual[name] if taken[usual[name]] == 1 else name: each for name, each in tensors.items()
        }


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
    """Return the key of LAYOUTS that describes a model; None if it is not one of ours."""
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
        names: names of layers or tensors.
        pattern: a pattern for those in a block, with its numbers as groups `stage` and `block`.
        first: the numbers of the first block of the first stage.
    """
    blocks: dict[int, int] = {}
    for match in filter(None, (re.match(pattern, name) for name in names)):
        stage = int(match["stage"]) - first[0] + 1
        blocks[stage] = max(blocks.get(stage, 0), int(match["block"]) - first[1] + 1)
    return blocks


def layout_of_name(name: str) -> str:
    """Return the key of LAYOUTS that describes a model of the registry."""
    if name in VARIANTS:
        return name
    row = ARCHITECTURES[name]
    if row.preactivation:
        return "resnet_v2_keras" if row.stride_at_end else "resnet_v2"
    return "resnet_v1" if row.block is bottleneck_v1 else "resnet"


def translate(name: str, rules: Iterable[Rule]) -> str | None:
    """Return the file's name for one of our layers by the first rule that matches, or None.

    A template refers to the pattern's groups by name. A group that is a number is also available
    minus 1 and plus 1, as in `block_before` and `block_after`, since some files count from 0.
    """
    for pattern, template in rules:
        if match := re.fullmatch(pattern, name):
            words: dict[str, Any] = dict(match.groupdict())
            for key, text in match.groupdict().items():
                if text.isdecimal():
                    words |= {f"{key}_before": int(text) - 1, f"{key}_after": int(text) + 1}
            return template.format(**words)
    return None
