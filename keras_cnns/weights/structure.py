"""The names and shapes of our models' variables, computed from the tables of models.

If a file does not fit a model, it may fit another model. With these tables, trying all models takes
milliseconds, while building a single model takes seconds. Classifiers are left out, because they
depend on the number of classes.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from keras_cnns.models.googlenet import BODY, VARIANTS, Inception, Variant
from keras_cnns.models.layers import conv_relu
from keras_cnns.models.resnet import (
    ARCHITECTURES,
    Architecture,
    Stem,
    basic_block,
    cifar_stem,
    cifar_v2_stem,
    imagenet_stem,
    imagenet_v2_stem,
    keras_v2_stem,
    preactivation_basic_block,
)

# The beginning of the names of layers in a block.
BLOCK = r"stage(?P<stage>\d+)_block(?P<block>\d+)_"
# Stem -> (kernel size, number of filters, whether it has a bias) of its convolution.
_STEMS: dict[Stem, tuple[int, int, bool]] = {
    imagenet_stem: (7, 64, False),
    imagenet_v2_stem: (7, 64, False),
    keras_v2_stem: (7, 64, True),
    cifar_stem: (3, 16, False),
    cifar_v2_stem: (3, 16, False),
}
# The models whose variables are computed here. Residual networks without weights in their shortcuts
# are left out, because plain networks have the same variables.
CANDIDATES = (
    *VARIANTS,
    *(
        name
        for name, row in ARCHITECTURES.items()
        if row.shortcut == "projection" and row.stem in _STEMS
    ),
)


class ModelVariable(NamedTuple):
    """A variable of one of our models."""

    layer: str  # the layer's name
    name: str  # kernel, bias, gamma, beta, moving_mean or moving_variance
    shape: tuple[int, ...]


def blocks_of(variables: Iterable[ModelVariable]) -> dict[int, int]:
    """Return stage -> number of residual blocks; stages are counted from 1."""
    blocks: dict[int, int] = {}
    for match in filter(None, (re.match(BLOCK, variable.layer) for variable in variables)):
        stage = int(match["stage"])
        blocks[stage] = max(blocks.get(stage, 0), int(match["block"]))
    return blocks


def variables_of(name: str, channels: int) -> Iterator[ModelVariable]:
    """Yield the variables of a model, without those of its classifiers.

    Args:
        name: one of CANDIDATES.
        channels: number of channels of the images.
    """
    if name in VARIANTS:
        return _googlenet(VARIANTS[name], channels)
    return _resnet(ARCHITECTURES[name], channels)


def _kernel(layer: str, size: int, inputs: int, filters: int) -> ModelVariable:
    return ModelVariable(layer, "kernel", (size, size, inputs, filters))


def _norm(layer: str, channels: int) -> Iterator[ModelVariable]:
    for name in ("gamma", "beta", "moving_mean", "moving_variance"):
        yield ModelVariable(layer, name, (channels,))


def _googlenet(row: Variant, channels: int) -> Iterator[ModelVariable]:
    def step(layer: str, size: int, inputs: int, filters: int) -> Iterator[ModelVariable]:
        yield _kernel(f"{layer}_conv", size, inputs, filters)
        if row.step is conv_relu:
            yield ModelVariable(f"{layer}_conv", "bias", (filters,))
        else:
            yield from _norm(f"{layer}_bn", filters)

    yield from step("conv1", 7, channels, 64)
    yield from step("conv2_reduce", 1, 64, 64)
    yield from step("conv2", 3, 64, 192)
    inputs = 192
    for module, filters in BODY.items():
        if isinstance(filters, Inception):
            prefix, wide = f"inception_{module}", row.wide_kernel
            yield from step(f"{prefix}_1x1", 1, inputs, filters.conv1x1)
            yield from step(f"{prefix}_3x3_reduce", 1, inputs, filters.conv3x3_reduce)
            yield from step(f"{prefix}_3x3", 3, filters.conv3x3_reduce, filters.conv3x3)
            yield from step(f"{prefix}_5x5_reduce", 1, inputs, filters.conv5x5_reduce)
            yield from step(f"{prefix}_5x5", wide, filters.conv5x5_reduce, filters.conv5x5)
            yield from step(f"{prefix}_pool_proj", 1, inputs, filters.pool_proj)
            inputs = filters.conv1x1 + filters.conv3x3 + filters.conv5x5 + filters.pool_proj


def _convolutions(row: Architecture, filters: int) -> list[tuple[int, int, int]]:
    """Return (kernel size, number of filters, number of groups) of each convolution of a block."""
    if row.block in (basic_block, preactivation_basic_block):
        return [(3, filters, 1), (3, filters, 1)]
    width = filters // row.reduction
    return [(1, width, 1), (3, width, row.groups), (1, filters, 1)]


def _resnet(row: Architecture, channels: int) -> Iterator[ModelVariable]:
    size, outputs, has_bias = _STEMS[row.stem]
    yield _kernel("stem_conv", size, channels, outputs)
    if has_bias:
        yield ModelVariable("stem_conv", "bias", (outputs,))
    if not row.preactivation:
        yield from _norm("stem_bn", outputs)
    for stage, (blocks, filters) in enumerate(zip(row.blocks, row.filters, strict=True), start=1):
        for block in range(1, blocks + 1):
            prefix, inputs = f"stage{stage}_block{block}", outputs
            convolutions = _convolutions(row, filters)
            for number, (size, conv_filters, groups) in enumerate(convolutions, start=1):
                yield _kernel(f"{prefix}_conv{number}", size, outputs // groups, conv_filters)
                normalised = outputs if row.preactivation else conv_filters
                yield from _norm(f"{prefix}_bn{number}", normalised)
                outputs = conv_filters
            if inputs != outputs:
                yield _kernel(f"{prefix}_shortcut_conv", 1, inputs, outputs)
                if not row.preactivation:
                    yield from _norm(f"{prefix}_shortcut_bn", outputs)
    if row.preactivation:
        yield from _norm("final_bn", outputs)
