"""ResNet (He et al. 2015, "Deep Residual Learning for Image Recognition"): a net is a table's row.

A block computes a^l = f(Z^l + a^(l-2)): a few convolutions Z beside a skip path that carries the
block's input past them. Where the block changes the shape, the skip path is an identity with
zeros in the new channels, or a learned projection: a^l = f(Z^l + W a^(l-2)).

`resnet50` is ResNet v1.5: stride 2 on the 3x3, as torchvision. `resnet50_v1` strides on the first
1x1, as He wrote. `resnet50_v2` normalises and activates before each convolution (He et al. 2016,
"Identity Mappings in Deep Residual Networks").
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import keras
from keras import KerasTensor

from keras_cnns.models import layers
from keras_cnns.models.heads import InputShape, assemble, image_input
from keras_cnns.suggestions import find


class Conv(NamedTuple):
    """One convolution of a block."""

    kernel_size: int
    filters: int
    stride: int = 1
    groups: int = 1


Block = Callable[[int, int], tuple[Conv, ...]]  # (filters of its output, stride) -> convolutions


def basic(filters: int, stride: int) -> tuple[Conv, ...]:
    """Two 3x3 convolutions (He et al. 2015, figure 5, left)."""
    return Conv(3, filters, stride), Conv(3, filters)


def bottleneck(filters: int, stride: int) -> tuple[Conv, ...]:
    """1x1 to a quarter of the channels, 3x3 there, 1x1 back (figure 5, right); v1.5's stride."""
    width = filters // 4
    return Conv(1, width), Conv(3, width, stride), Conv(1, filters)


def bottleneck_v1(filters: int, stride: int) -> tuple[Conv, ...]:
    """The bottleneck as He wrote it: the first 1x1 has the stride."""
    width = filters // 4
    return Conv(1, width, stride), Conv(3, width), Conv(1, filters)


def grouped_bottleneck(filters: int, stride: int) -> tuple[Conv, ...]:
    """ResNeXt 32x4d: a twice wider 3x3 in 32 groups (Xie et al. 2017, table 1)."""
    width = filters // 2
    return Conv(1, width), Conv(3, width, stride, groups=32), Conv(1, filters)


@dataclass(frozen=True)
class Architecture:
    """One row of the family: what distinguishes a residual network from the next."""

    blocks: tuple[int, ...]  # residual blocks in each stage
    filters: tuple[int, ...]  # of a block's output, in each stage
    block: Block = basic
    shortcut: str = "projection"  # a key of SHORTCUTS
    stem: str = "imagenet"  # 7x7 with stride 2 and a max-pool, or "cifar": one 3x3
    preactivation: bool = False  # normalise and activate before each convolution
    stride_at_end: bool = False  # keras.applications' V2: a stage's last block has its stride

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the images that the papers trained it on."""
        return (224, 224, 3) if self.stem == "imagenet" else (32, 32, 3)

    @property
    def classes(self) -> int:
        """Number of classes in the papers' data set."""
        return 1000 if self.stem == "imagenet" else 10

    @property
    def least_size(self) -> int:
        """The smallest height and width, in pixels, that leaves the last stage a position."""
        return 32 if self.stem == "imagenet" else 4


NARROW, WIDE = (64, 128, 256, 512), (256, 512, 1024, 2048)
IMAGENET = {
    18: Architecture((2, 2, 2, 2), NARROW),
    34: Architecture((3, 4, 6, 3), NARROW),
    50: Architecture((3, 4, 6, 3), WIDE, bottleneck),
    101: Architecture((3, 4, 23, 3), WIDE, bottleneck),
    152: Architecture((3, 8, 36, 3), WIDE, bottleneck),
}
# Section 4.2: 6n + 2 layers, option A throughout.
CIFAR = {
    6 * n + 2: Architecture((n, n, n), (16, 32, 64), shortcut="identity", stem="cifar")
    for n in (3, 5, 7, 9, 18, 200)
}
# He et al. 2016, table 4: 9n + 2 layers of bottlenecks.
CIFAR_BOTTLENECK = {
    9 * n + 2: Architecture((n, n, n), (64, 128, 256), bottleneck, stem="cifar", preactivation=True)
    for n in (18, 111)
}

ARCHITECTURES: dict[str, Architecture] = {
    **{f"resnet{depth}": row for depth, row in (IMAGENET | CIFAR).items()},
    **{
        f"resnet{depth}_v1": replace(
            row, block=bottleneck_v1 if row.block is bottleneck else row.block
        )
        for depth, row in IMAGENET.items()
    },
    **{f"resnet{depth}_v2": replace(row, preactivation=True) for depth, row in IMAGENET.items()},
    **{
        f"resnet{depth}_v2_keras": replace(IMAGENET[depth], preactivation=True, stride_at_end=True)
        for depth in (50, 101, 152)
    },
    "resnet110_v2": replace(CIFAR[110], preactivation=True),
    **{f"resnet{depth}_v2": row for depth, row in CIFAR_BOTTLENECK.items()},
    **{
        f"plain{depth}": replace(row, shortcut="none")
        for depth, row in (IMAGENET | CIFAR).items()
        if depth in (18, 34, 20, 32, 44, 56, 110)
    },
    "wide_resnet28_10": Architecture(  # Zagoruyko and Komodakis 2016, table 1
        (4, 4, 4), (160, 320, 640), stem="cifar", preactivation=True
    ),
    "resnext50_32x4d": Architecture((3, 4, 6, 3), WIDE, grouped_bottleneck),
}


# What a block makes of its input x and its convolutions' output z. `normalise` is what stands
# behind a projection: batch normalisation, or nothing where the next block begins with one.


def identity_path(x: KerasTensor, filters: int, stride: int, *, name: str) -> KerasTensor:
    """Return x where the shape stays; else every `stride`-th position, zeros in new channels."""
    if (x.shape[-1], stride) == (filters, 1):
        return x
    return layers.IdentityShortcut(filters, stride, name=f"{name}_shortcut")(x)


def projection_path(
    x: KerasTensor, filters: int, stride: int, *, normalise: bool, name: str
) -> KerasTensor:
    """Return W x, a learned 1x1 convolution."""
    x = layers.conv(x, filters, 1, stride=stride, name=f"{name}_shortcut_conv")
    return layers.batch_norm(x, name=f"{name}_shortcut_bn") if normalise else x


def gate(x: KerasTensor, filters: int, stride: int, *, name: str) -> KerasTensor:
    """Return g(x) = sigmoid(W x + b), with b = -6 at the start: nearly closed."""
    bias = keras.initializers.Constant(-6.0)
    x = layers.conv(
        x, filters, 1, stride=stride, use_bias=True, bias_initializer=bias, name=f"{name}_gate_conv"
    )
    return keras.layers.Activation("sigmoid", name=f"{name}_gate")(x)


def add(*terms: KerasTensor, name: str) -> KerasTensor:
    """Return the sum."""
    return keras.layers.Add(name=f"{name}_add")(list(terms))


def add_identity(
    x: KerasTensor, z: KerasTensor, stride: int, *, normalise: bool, name: str
) -> KerasTensor:
    """Z + x: the skip path has nothing to learn (He et al. 2015, option A)."""
    return add(z, identity_path(x, z.shape[-1], stride, name=name), name=name)


def add_projection(
    x: KerasTensor, z: KerasTensor, stride: int, *, normalise: bool, name: str
) -> KerasTensor:
    """Z + W x where the block changes the number of channels, else Z + x (option B)."""
    if x.shape[-1] == z.shape[-1]:
        return add_identity(x, z, stride, normalise=normalise, name=name)
    return add_projection_everywhere(x, z, stride, normalise=normalise, name=name)


def add_projection_everywhere(
    x: KerasTensor, z: KerasTensor, stride: int, *, normalise: bool, name: str
) -> KerasTensor:
    """Z + W x in every block (option C)."""
    path = projection_path(x, z.shape[-1], stride, normalise=normalise, name=name)
    return add(z, path, name=name)


def add_scaled(
    x: KerasTensor, z: KerasTensor, stride: int, *, normalise: bool, name: str
) -> KerasTensor:
    """0.5 Z + 0.5 x (He et al. 2016, section 3.1, constant scaling)."""
    path = identity_path(x, z.shape[-1], stride, name=name)
    path = keras.layers.Rescaling(0.5, name=f"{name}_shortcut_scale")(path)
    return add(keras.layers.Rescaling(0.5, name=f"{name}_scale")(z), path, name=name)


def add_exclusively_gated(
    x: KerasTensor, z: KerasTensor, stride: int, *, normalise: bool, name: str
) -> KerasTensor:
    """g Z + (1 - g) x (section 3.1, exclusive gating), written as x + g (Z - x)."""
    path = identity_path(x, z.shape[-1], stride, name=name)
    difference = keras.layers.Subtract(name=f"{name}_difference")([z, path])
    g = gate(x, z.shape[-1], stride, name=name)
    return add(path, keras.layers.Multiply(name=f"{name}_gated")([g, difference]), name=name)


def add_gated_shortcut(
    x: KerasTensor, z: KerasTensor, stride: int, *, normalise: bool, name: str
) -> KerasTensor:
    """Z + (1 - g) x (section 3.1, shortcut-only gating), written as Z + x - g x."""
    path = identity_path(x, z.shape[-1], stride, name=name)
    gated = keras.layers.Multiply(name=f"{name}_gated")(
        [gate(x, z.shape[-1], stride, name=name), path]
    )
    return add(z, keras.layers.Subtract(name=f"{name}_open")([path, gated]), name=name)


def add_dropped(
    x: KerasTensor, z: KerasTensor, stride: int, *, normalise: bool, name: str
) -> KerasTensor:
    """Z + dropout(x) with half of x dropped (section 3.1, dropout shortcut)."""
    path = identity_path(x, z.shape[-1], stride, name=name)
    return add(z, keras.layers.Dropout(0.5, name=f"{name}_shortcut_dropout")(path), name=name)


def add_nothing(
    x: KerasTensor, z: KerasTensor, stride: int, *, normalise: bool, name: str
) -> KerasTensor:
    """Z alone: the plain net (He et al. 2015, section 3.3)."""
    return z


SHORTCUTS: dict[str, Callable[..., KerasTensor]] = {
    "identity": add_identity,
    "projection": add_projection,
    "projection_everywhere": add_projection_everywhere,
    "constant_scaling": add_scaled,
    "exclusive_gating": add_exclusively_gated,
    "shortcut_only_gating": add_gated_shortcut,
    "dropout": add_dropped,
    "none": add_nothing,
}
OPTIONS = {"A": "identity", "B": "projection", "C": "projection_everywhere"}  # the paper's letters


def residual_block(
    x: KerasTensor, convs: tuple[Conv, ...], *, shortcut: str, name: str
) -> KerasTensor:
    """Return f(Z + shortcut(x)), f being ReLU (He et al. 2015, figure 2).

    [N, H, W, C] -> [N, H/stride, W/stride, filters], of which the convolutions decide.
    """
    z = x
    for number, conv in enumerate(convs, start=1):
        z = convolve(z, conv, name=f"{name}_conv{number}")
        z = layers.batch_norm(z, name=f"{name}_bn{number}")
        if number < len(convs):
            z = layers.relu(z, name=f"{name}_relu{number}")
    x = find(shortcut, SHORTCUTS, "shortcut")(x, z, total_stride(convs), normalise=True, name=name)
    return layers.relu(x, name=f"{name}_relu")


def preactivation_block(
    x: KerasTensor, convs: tuple[Conv, ...], *, shortcut: str, name: str
) -> KerasTensor:
    """Return Z + shortcut(x), each convolution behind norm and ReLU (He et al. 2016, figure 4e).

    A projection takes the activated x, as the paper's own code does; an identity takes x as it is.
    """
    z = x
    for number, conv in enumerate(convs, start=1):
        z = layers.batch_norm(z, name=f"{name}_bn{number}")
        z = layers.relu(z, name=f"{name}_relu{number}")
        if number == 1:
            activated = z
        z = convolve(z, conv, name=f"{name}_conv{number}")
    is_projected = shortcut == "projection_everywhere" or (
        shortcut == "projection" and x.shape[-1] != z.shape[-1]
    )
    source = activated if is_projected else x
    return find(shortcut, SHORTCUTS, "shortcut")(
        source, z, total_stride(convs), normalise=False, name=name
    )


def convolve(x: KerasTensor, conv: Conv, *, name: str) -> KerasTensor:
    """Apply one row of a block."""
    return layers.conv(
        x, conv.filters, conv.kernel_size, stride=conv.stride, groups=conv.groups, name=name
    )


def total_stride(convs: tuple[Conv, ...]) -> int:
    """Return the step between positions of the block's input."""
    return max(conv.stride for conv in convs)


def stem(x: KerasTensor, architecture: Architecture) -> KerasTensor:
    """Return the first feature map; before pre-activation blocks neither normed nor active."""
    imagenet = architecture.stem == "imagenet"
    filters, kernel_size, stride = (64, 7, 2) if imagenet else (16, 3, 1)
    # keras.applications' V2 has a bias here that its zero padding keeps from being folded away.
    use_bias = architecture.stride_at_end
    x = layers.conv(x, filters, kernel_size, stride=stride, use_bias=use_bias, name="stem_conv")
    if not architecture.preactivation:
        x = layers.batch_norm(x, name="stem_bn")
        x = layers.relu(x, name="stem_relu")
    if imagenet:
        # Zeros are no maximum behind a ReLU; elsewhere only keras.applications pads with them.
        if architecture.preactivation and not architecture.stride_at_end:
            x = layers.EdgePadding2D(name="stem_pool_pad")(x)
        else:
            x = keras.layers.ZeroPadding2D(1, name="stem_pool_pad")(x)
        x = keras.layers.MaxPooling2D(3, strides=2, name="stem_pool")(x)
    return x


def resnet(
    architecture: str | Architecture,
    input_shape: InputShape | None = None,
    classes: int | None = None,
    *,
    shortcut: str | None = None,
    aux_heads: bool | Iterable[str] = False,
    input_tensor: KerasTensor | None = None,
    name: str | None = None,
    **heads: Any,
) -> keras.Model:
    """Build a residual network: images [N, H, W, C] -> probabilities [N, K].

    Args:
        architecture: a row of ARCHITECTURES by its name, or a row of your own.
        input_shape: (H, W, C) of the images; by default those of the paper.
        classes: number of classes, K; by default the paper's.
        shortcut: the skip path, a key of SHORTCUTS or the paper's letter A, B or C.
        aux_heads: auxiliary classifiers (deep supervision) after all stages but the last, or after
            the named ones; the output is then a dict with `main`, `aux1`, ...
        input_tensor: a tensor to start from, instead of a new input.
        name: the model's name; by default the row's, `resnet` for your own.
        heads: `features`, `include_top`, `pooling`, `classifier_activation`, `weights`: see
            `heads.assemble`.

    Raises:
        ValueError: there is no such row, an argument is out of its range, or the file of `weights`
            belongs to another network.
    """
    if isinstance(architecture, str):
        name = name or architecture
        architecture = find(architecture, ARCHITECTURES, "ResNet")
    shortcut = architecture.shortcut if shortcut is None else OPTIONS.get(shortcut, shortcut)
    if shortcut not in SHORTCUTS:
        raise ValueError(
            f"shortcut is {shortcut!r}; there are {', '.join(SHORTCUTS)}, and the paper's A, B, C"
        )
    block = preactivation_block if architecture.preactivation else residual_block
    shape = architecture.input_shape if input_shape is None else input_shape
    inputs = image_input(shape, architecture.least_size, input_tensor)
    x = stem(inputs, architecture)
    feature_maps: dict[str, KerasTensor] = {}
    stages = len(architecture.blocks)
    for stage, (blocks, filters) in enumerate(
        zip(architecture.blocks, architecture.filters, strict=True), start=1
    ):
        strided = blocks if architecture.stride_at_end else 1
        halves = stage < stages if architecture.stride_at_end else stage > 1
        for number in range(1, blocks + 1):
            stride = 2 if halves and number == strided else 1
            convs = architecture.block(filters, stride)
            x = block(x, convs, shortcut=shortcut, name=f"stage{stage}_block{number}")
        feature_maps[f"stage{stage}"] = x
    if architecture.preactivation:
        x = layers.batch_norm(x, name="final_bn")
        x = layers.relu(x, name="final_relu")
        feature_maps[f"stage{stages}"] = x
    return assemble(
        inputs,
        feature_maps,
        classes=architecture.classes if classes is None else classes,
        aux_heads=aux_heads,
        default_aux_heads=tuple(feature_maps)[:-1],
        auxiliary_step=layers.conv_bn_relu,
        name=name or "resnet",
        **heads,
    )
