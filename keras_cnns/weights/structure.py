"""The variables of the registry's networks by name and shape, from their tables alone.

A file that does not fit a network may fit another: trying each of them here takes milliseconds,
while building one takes seconds. Classifiers are left out, as they depend on the classes.
"""

from collections.abc import Iterator

from keras_cnns.models.googlenet import BODY, VARIANTS, Inception
from keras_cnns.models.layers import conv_relu
from keras_cnns.models.resnet import ARCHITECTURES, Architecture

# Without weights in its shortcuts, a residual network has the same file as a plain one.
CANDIDATES = (
    *VARIANTS,
    *(name for name, row in ARCHITECTURES.items() if row.shortcut == "projection"),
)
Shape = tuple[int, ...]
Variable = tuple[str, str, Shape]  # name of the layer, name of the variable, its shape


def variables_of(name: str, channels: int) -> Iterator[Variable]:
    """Yield the variables of a network of the registry, without those of its classifiers.

    Args:
        name: one of CANDIDATES.
        channels: number of the images' channels.
    """
    if name in VARIANTS:
        return _googlenet(name, channels)
    return _resnet(ARCHITECTURES[name], channels)


def _norm(layer: str, channels: int) -> Iterator[Variable]:
    for variable in ("gamma", "beta", "moving_mean", "moving_variance"):
        yield layer, variable, (channels,)


def _googlenet(name: str, channels: int) -> Iterator[Variable]:
    variant = VARIANTS[name]

    def step(layer: str, kernel_size: int, inputs: int, filters: int) -> Iterator[Variable]:
        yield f"{layer}_conv", "kernel", (kernel_size, kernel_size, inputs, filters)
        if variant.step is conv_relu:
            yield f"{layer}_conv", "bias", (filters,)
        else:
            yield from _norm(f"{layer}_bn", filters)

    yield from step("conv1", 7, channels, 64)
    yield from step("conv2_reduce", 1, 64, 64)
    yield from step("conv2", 3, 64, 192)
    inputs = 192
    for module, row in BODY.items():
        if isinstance(row, Inception):
            prefix = f"inception_{module}"
            yield from step(f"{prefix}_1x1", 1, inputs, row.conv1x1)
            yield from step(f"{prefix}_3x3_reduce", 1, inputs, row.conv3x3_reduce)
            yield from step(f"{prefix}_3x3", 3, row.conv3x3_reduce, row.conv3x3)
            yield from step(f"{prefix}_5x5_reduce", 1, inputs, row.conv5x5_reduce)
            yield from step(f"{prefix}_5x5", variant.wide_kernel, row.conv5x5_reduce, row.conv5x5)
            yield from step(f"{prefix}_pool_proj", 1, inputs, row.pool_proj)
            inputs = row.conv1x1 + row.conv3x3 + row.conv5x5 + row.pool_proj


def _resnet(row: Architecture, channels: int) -> Iterator[Variable]:
    kernel_size, outputs = (7, 64) if row.stem == "imagenet" else (3, 16)
    yield "stem_conv", "kernel", (kernel_size, kernel_size, channels, outputs)
    if row.stride_at_end:
        yield "stem_conv", "bias", (outputs,)
    if not row.preactivation:
        yield from _norm("stem_bn", outputs)
    for stage, (blocks, filters) in enumerate(zip(row.blocks, row.filters, strict=True), start=1):
        for block in range(1, blocks + 1):
            prefix, inputs = f"stage{stage}_block{block}", outputs
            for number, conv in enumerate(row.block(filters, 1), start=1):
                size = conv.kernel_size
                shape = (size, size, outputs // conv.groups, conv.filters)
                yield f"{prefix}_conv{number}", "kernel", shape
                normalised = outputs if row.preactivation else conv.filters
                yield from _norm(f"{prefix}_bn{number}", normalised)
                outputs = conv.filters
            if inputs != outputs:
                yield f"{prefix}_shortcut_conv", "kernel", (1, 1, inputs, outputs)
                if not row.preactivation:
                    yield from _norm(f"{prefix}_shortcut_bn", outputs)
    if row.preactivation:
        yield from _norm("final_bn", outputs)
