"""ResNet (He et al. 2015, "Deep Residual Learning for Image Recognition"): a net is a table's row.

A block computes a^l = f(Z^l + a^(l-2)): a few convolutions Z beside a skip path that carries the
block's input past them. Where the block changes the shape, the skip path is an identity with
zeros in the new channels, or a learned projection: a^l = f(Z^l + W a^(l-2)).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
from keras import KerasTensor

from keras_cnns.models import layers
from keras_cnns.models.heads import InputShape, assemble, image_input


class Conv(NamedTuple):
    """One convolution of a block."""

    kernel_size: int
    filters: int
    stride: int = 1


def basic(filters: int, stride: int) -> tuple[Conv, ...]:
    """Two 3x3 convolutions (figure 5, left)."""
    return Conv(3, filters, stride), Conv(3, filters)


def identity(x: KerasTensor, filters: int, stride: int, name: str) -> KerasTensor:
    """Option A: x itself where the shape stays, strided and padded with zeros where it changes."""
    if (x.shape[-1], stride) == (filters, 1):
        return x
    return layers.IdentityShortcut(filters, stride, name=f"{name}_shortcut")(x)


@dataclass(frozen=True)
class Architecture:
    """One row of the family: what distinguishes a residual network from the next."""

    blocks: tuple[int, ...]  # residual blocks in each stage
    filters: tuple[int, ...]  # of a block's output, in each stage
    block: Callable[[int, int], tuple[Conv, ...]] = basic
    shortcut: Callable[[KerasTensor, int, int, str], KerasTensor] = identity


ARCHITECTURES: dict[str, Architecture] = {
    f"resnet{6 * n + 2}": Architecture((n, n, n), (16, 32, 64)) for n in (3, 5, 7, 9, 18, 200)
}


def residual_block(
    x: KerasTensor, filters: int, stride: int, architecture: Architecture, *, name: str
) -> KerasTensor:
    """Return f(Z + shortcut(x)): [N, H, W, C] -> [N, H/stride, W/stride, filters] (figure 2)."""
    convs = architecture.block(filters, stride)
    z = x
    for number, conv in enumerate(convs, start=1):
        z = layers.conv(
            z, conv.filters, conv.kernel_size, stride=conv.stride, name=f"{name}_conv{number}"
        )
        z = layers.batch_norm(z, name=f"{name}_bn{number}")
        if number < len(convs):
            z = layers.relu(z, name=f"{name}_relu{number}")
    shortcut = architecture.shortcut(x, filters, stride, name)
    x = keras.layers.Add(name=f"{name}_add")([z, shortcut])
    return layers.relu(x, name=f"{name}_relu")


def resnet(
    architecture_name: str,
    input_shape: InputShape = (32, 32, 3),
    classes: int = 10,
    *,
    aux_heads: bool | Iterable[str] = False,
    input_tensor: KerasTensor | None = None,
    name: str | None = None,
    **heads: Any,
) -> keras.Model:
    """Build a residual network: images [N, H, W, C] -> probabilities [N, K].

    Args:
        architecture_name: a row of ARCHITECTURES.
        input_shape: (H, W, C) of the images.
        classes: number of classes, K.
        aux_heads: auxiliary classifiers (deep supervision) after all stages but the last, or after
            the named ones; the output is then a dict with `main`, `aux1`, ...
        input_tensor: a tensor to start from, instead of a new input.
        name: the model's name; by default the architecture's.
        heads: `features`, `include_top`, `pooling`, `classifier_activation`: see
            `heads.assemble`.

    Raises:
        ValueError: an argument is out of its range.
    """
    architecture = ARCHITECTURES[architecture_name]
    inputs = image_input(input_shape, 4, input_tensor)
    x = layers.conv_bn_relu(inputs, architecture.filters[0], 3, name="stem")
    feature_maps: dict[str, KerasTensor] = {}
    for stage, (blocks, filters) in enumerate(
        zip(architecture.blocks, architecture.filters, strict=True), start=1
    ):
        for block in range(1, blocks + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            block_name = f"stage{stage}_block{block}"
            x = residual_block(x, filters, stride, architecture, name=block_name)
        feature_maps[f"stage{stage}"] = x
    return assemble(
        inputs,
        feature_maps,
        classes=classes,
        aux_heads=aux_heads,
        default_aux_heads=tuple(feature_maps)[:-1],
        auxiliary_step=layers.conv_bn_relu,
        name=name or architecture_name,
        **heads,
    )
