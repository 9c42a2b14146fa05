"""Describe an origin of weights by the signature of its files and the tensors of each variable."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras

from keras_cnns.models.googlenet import VARIANTS
from keras_cnns.models.resnet import ARCHITECTURES
from keras_cnns.weights.checkpoint import Architecture, Array, Tensors
from keras_cnns.weights.structure import ModelVariable

# A pattern that the name of our layer matches, and a template for the name in the file.
Rule = tuple[str, str]
Blocks = Mapping[int, int]  # number of a stage, from 1 -> number of its residual blocks


def unchanged(tensor: Array, *rest: Array) -> Array:
    """Return the tensor unchanged."""
    return tensor


class FileTensors(NamedTuple):
    """The tensors of a file from which one variable is computed.

    The first name belongs to the tensor that becomes the variable. Further names belong to tensors
    of the same shape that are folded into the variable.
    """

    names: tuple[str, ...]
    # Computes the variable's value from the named tensors.
    convert: Callable[..., Array] = unchanged


@dataclass(frozen=True)
class Origin:
    """One row of the table of origins."""

    title: str
    signature: str  # pattern of a tensor's name that only files of this origin contain
    # Keys of LAYOUTS: the models with these keys compute the same function as the file's network.
    layouts: tuple[str, ...]
    # Returns the tensors of a variable, or None if no file of this origin has them.
    tensors_of: Callable[[ModelVariable, Blocks], FileTensors | None]
    heads: str  # pattern of the names of heads' tensors; those that the model lacks are ignored
    stem: str  # name of the first convolution's kernel
    channels_axis: int  # the axis of this kernel that belongs to the channels of the image
    classifier: str  # name of the main classifier's bias
    ignored: str = r"(?!)"  # pattern of the names of tensors that no model needs for its output
    synonym: Rule = (r"(?!)", "")  # pattern of alternative names, and its replacement
    # Returns the differences between the file's network and ours, according to the names of its
    # tensors and the name of its architecture.
    differences: Callable[[Iterable[str], Architecture | None], list[str]] = lambda *_: []

    def channels(self, tensors: Tensors) -> int | None:
        """Return the number of channels of the images that the file's network takes."""
        stem = tensors.get(self.stem)
        return stem.shape[self.channels_axis] if stem is not None and stem.ndim == 4 else None

    def without_synonyms(self, tensors: Tensors) -> Tensors:
        """Return usual name -> tensor; if tensors share a usual name, they keep their own names."""
        usual = {name: re.sub(*self.synonym, name) for name in tensors}
        count = Counter(usual.values())
        return {
            usual[name] if count[usual[name]] == 1 else name: each for name, each in tensors.items()
        }


LAYOUTS = {
    "googlenet": "has biases and no batch normalisation",
    "googlenet_bn": "has 5x5 convolutions, as in the paper",
    "googlenet_tv": "has 3x3 convolutions where the paper has 5x5",
    "resnet": "normalises after convolutions, and has a stage's stride in its first 3x3",
    "resnet_v1": "normalises after convolutions, and has a stage's stride in its first 1x1",
    "resnet_v2": "normalises before convolutions, and has a stage's stride in its first block",
    "resnet_v2_keras": "normalises before convolutions, and has a stage's stride in its last block",
}


def layout_of(model: keras.Model) -> str | None:
    """Return the key of LAYOUTS that describes a model; None if it is not one of ours."""
    layers = {layer.name: layer for layer in model.layers}
    if "inception_3a_output" in layers:
        if "conv1_bn" not in layers:
            return "googlenet"
        wide = layers.get("inception_3a_5x5_conv")  # absent from a variation without this branch
        return "googlenet_tv" if wide and wide.kernel_size[0] == 3 else "googlenet_bn"
    if "stage2_block1_conv1" not in layers:
        return None
    if "final_bn" in layers:
        has_bias = "stem_conv" in layers and layers["stem_conv"].use_bias
        return "resnet_v2_keras" if has_bias else "resnet_v2"
    first = layers["stage2_block1_conv1"]
    return "resnet_v1" if (*first.kernel_size, *first.strides) == (1, 1, 2, 2) else "resnet"


def layout_of_name(name: str) -> str:
    """Return the key of LAYOUTS that describes the model with a given name."""
    if name in VARIANTS:
        return name
    row = ARCHITECTURES[name]
    if row.preactivation:
        return "resnet_v2_keras" if row.stride_in_last_block else "resnet_v2"
    return "resnet_v1" if row.stride_in_first_1x1 else "resnet"


def translate(name: str, rules: Iterable[Rule]) -> str | None:
    """Return the name that a file has for our layer `name`; None if no rule matches.

    The first rule that matches determines the name. A template refers to the pattern's groups by
    name. If a group such as `block` is a number, `block_before` is this number minus 1, and
    `block_after` is this number plus 1, because our numbers begin with 1, and those of files may
    begin with 0 or 2.
    """
    for pattern, template in rules:
        if match := re.fullmatch(pattern, name):
            words: dict[str, Any] = dict(match.groupdict())
            for key, text in match.groupdict().items():
                if text.isdecimal():
                    words |= {f"{key}_before": int(text) - 1, f"{key}_after": int(text) + 1}
            return template.format(**words)
    return None
