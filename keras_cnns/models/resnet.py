"""ResNet (He et al. 2015, "Deep Residual Learning for Image Recognition"), with a table of models.

A block computes a^l = f(z^l + a^(l-2)): its convolutions compute z, a shortcut carries the block's
input past them, and f is ReLU. If the block changes the shape, the shortcut is an identity with
zeros in the new channels, or a learned projection: a^l = f(z^l + W a^(l-2)).

`resnet50` is ResNet v1.5, with stride 2 in the 3x3 convolution, as in torchvision. `resnet50_v1`
has the stride in the first 1x1 convolution, as in the paper. `resnet50_v2` normalises and activates
before each convolution (He et al. 2016, "Identity Mappings in Deep Residual Networks").
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Unpack

import keras
from keras import KerasTensor

from keras_cnns.models import layers
from keras_cnns.models.cost import Cost
from keras_cnns.models.heads import HeadOptions, InputShape, assemble, image_input
from keras_cnns.models.layers import batch_norm, conv, relu
from keras_cnns.models.rows import Row
from keras_cnns.models.shortcuts import Shortcut, find_shortcut
from keras_cnns.suggestions import find

# Blocks: [N, H, W, C] -> [N, H/stride, W/stride, filters]. The argument `row` of a block contains
# the details in which models with the same block differ. The argument `name` is the prefix of the
# layers' names.
Block = Callable[..., KerasTensor]


def basic_block(
    x: KerasTensor, row: "Architecture", filters: int, stride: int, shortcut: Shortcut, *, name: str
) -> KerasTensor:
    """Apply two 3x3 convolutions, and add a shortcut (He et al. 2015, figure 5, left)."""
    z = conv(x, filters, 3, stride=stride, name=f"{name}_conv1")
    z = relu(batch_norm(z, name=f"{name}_bn1"), name=f"{name}_relu1")
    z = conv(z, filters, 3, name=f"{name}_conv2")
    z = batch_norm(z, name=f"{name}_bn2")
    return relu(shortcut(x, z, stride, name=name), name=f"{name}_relu")


def bottleneck_block(
    x: KerasTensor, row: "Architecture", filters: int, stride: int, shortcut: Shortcut, *, name: str
) -> KerasTensor:
    """Apply a reducing 1x1, a 3x3 and an expanding 1x1 convolution, and add a shortcut."""
    width = filters // row.reduction
    stride1, stride2 = (stride, 1) if row.stride_in_first_1x1 else (1, stride)
    z = conv(x, width, 1, stride=stride1, name=f"{name}_conv1")
    z = relu(batch_norm(z, name=f"{name}_bn1"), name=f"{name}_relu1")
    z = conv(z, width, 3, stride=stride2, groups=row.groups, name=f"{name}_conv2")
    z = relu(batch_norm(z, name=f"{name}_bn2"), name=f"{name}_relu2")
    z = conv(z, filters, 1, name=f"{name}_conv3")
    z = batch_norm(z, name=f"{name}_bn3")
    return relu(shortcut(x, z, stride, name=name), name=f"{name}_relu")


def preactivation_basic_block(
    x: KerasTensor, row: "Architecture", filters: int, stride: int, shortcut: Shortcut, *, name: str
) -> KerasTensor:
    """Apply the basic block with normalisation and ReLU first (He et al. 2016, figure 4e)."""
    a = relu(batch_norm(x, name=f"{name}_bn1"), name=f"{name}_relu1")
    z = conv(a, filters, 3, stride=stride, name=f"{name}_conv1")
    z = relu(batch_norm(z, name=f"{name}_bn2"), name=f"{name}_relu2")
    z = conv(z, filters, 3, name=f"{name}_conv2")
    return shortcut(x, z, stride, activated=a, name=name)


def preactivation_bottleneck_block(
    x: KerasTensor, row: "Architecture", filters: int, stride: int, shortcut: Shortcut, *, name: str
) -> KerasTensor:
    """Apply the bottleneck with normalisation and ReLU before each convolution."""
    width = filters // row.reduction
    a = relu(batch_norm(x, name=f"{name}_bn1"), name=f"{name}_relu1")
    z = conv(a, width, 1, name=f"{name}_conv1")
    z = relu(batch_norm(z, name=f"{name}_bn2"), name=f"{name}_relu2")
    z = conv(z, width, 3, stride=stride, groups=row.groups, name=f"{name}_conv2")
    z = relu(batch_norm(z, name=f"{name}_bn3"), name=f"{name}_relu3")
    z = conv(z, filters, 1, name=f"{name}_conv3")
    return shortcut(x, z, stride, activated=a, name=name)


# Stems: images [N, H, W, C] -> the input of the first block, [N, H/4, W/4, 64] for ImageNet and [N,
# H, W, 16] for CIFAR. Stems for pre-activation blocks have no normalisation and no activation.
Stem = Callable[[KerasTensor], KerasTensor]


def imagenet_stem(x: KerasTensor) -> KerasTensor:
    """Apply a 7x7 convolution and a max-pool, both with stride 2 (He et al. 2015, table 1)."""
    x = conv(x, 64, 7, stride=2, name="stem_conv")
    x = relu(batch_norm(x, name="stem_bn"), name="stem_relu")
    return _stem_pool(keras.layers.ZeroPadding2D(1, name="stem_pool_pad")(x))


def imagenet_v2_stem(x: KerasTensor) -> KerasTensor:
    """Apply ImageNet's stem for pre-activation blocks.

    The map before the pool may have negative values, so the pool must not be padded with zeros.
    """
    x = conv(x, 64, 7, stride=2, name="stem_conv")
    return _stem_pool(layers.EdgePadding2D(name="stem_pool_pad")(x))


def keras_v2_stem(x: KerasTensor) -> KerasTensor:
    """Apply the stem of keras.applications' ResNet V2, which pads the pool with zeros.

    The convolution has a bias, which is not added to the padding of the pool. The bias can
    therefore not be folded into a later layer.
    """
    x = conv(x, 64, 7, stride=2, use_bias=True, name="stem_conv")
    return _stem_pool(keras.layers.ZeroPadding2D(1, name="stem_pool_pad")(x))


def _stem_pool(x: KerasTensor) -> KerasTensor:
    return keras.layers.MaxPooling2D(3, strides=2, name="stem_pool")(x)


def cifar_stem(x: KerasTensor, filters: int = 16) -> KerasTensor:
    """Apply a 3x3 convolution (He et al. 2015, section 4.2)."""
    x = conv(x, filters, 3, name="stem_conv")
    return relu(batch_norm(x, name="stem_bn"), name="stem_relu")


def cifar_v2_stem(x: KerasTensor, filters: int = 16) -> KerasTensor:
    """Apply CIFAR's stem for pre-activation blocks."""
    return conv(x, filters, 3, name="stem_conv")


# Stem for ImageNet -> the stem that replaces it for small images. The networks for CIFAR keep their
# stems.
_SMALL_STEMS: dict[Stem, Stem] = {
    imagenet_stem: partial(cifar_stem, filters=64),
    imagenet_v2_stem: partial(cifar_v2_stem, filters=64),
    keras_v2_stem: partial(cifar_v2_stem, filters=64),
}


@dataclass(frozen=True)
class Architecture(Row):
    """One row of the table: a residual network.

    Attributes:
        blocks: the number of residual blocks in each stage.
        filters: the number of channels of a block's output in each stage.
        block: the function that applies a block.
        shortcut: a key of SHORTCUTS.
        stem: the function that applies the stem.
        reduction: the number of channels of a bottleneck's output divided by that of its 3x3
            convolution.
        groups: the number of groups of a bottleneck's 3x3 convolution.
        stride_in_first_1x1: whether the stride of a bottleneck is in its first 1x1 convolution (v1)
            instead of its 3x3 (v1.5).
        stride_in_last_block: whether the stride of a stage is in its last block, as in the V2
            models of keras.applications, instead of its first block.
    """

    blocks: tuple[int, ...]
    filters: tuple[int, ...]
    block: Block = basic_block
    shortcut: str = "projection"
    stem: Stem = imagenet_stem
    reduction: int = 4
    groups: int = 1
    stride_in_first_1x1: bool = False
    stride_in_last_block: bool = False
    paper: str = field(default="He et al. 2015, arXiv:1512.03385", compare=False, kw_only=True)

    @property
    def preactivation(self) -> bool:
        """Return whether the blocks normalise and activate before each convolution."""
        return self.block in _PREACTIVATION.values()

    def stride(self, stage: int, block: int) -> int:
        """Return the stride of a block; stages and blocks count from 1."""
        if self.stride_in_last_block:
            return 2 if stage < len(self.blocks) and block == self.blocks[stage - 1] else 1
        return 2 if stage > 1 and block == 1 else 1


_HE_2016 = "He et al. 2016, arXiv:1603.05027"
_PREACTIVATION: dict[Block, Block] = {
    basic_block: preactivation_basic_block,
    bottleneck_block: preactivation_bottleneck_block,
}
_NARROW, _WIDE = (64, 128, 256, 512), (256, 512, 1024, 2048)

# The families: number of layers -> row. He et al. 2015, table 1:
_IMAGENET = {
    18: Architecture((2, 2, 2, 2), _NARROW),
    34: Architecture((3, 4, 6, 3), _NARROW),
    50: Architecture((3, 4, 6, 3), _WIDE, bottleneck_block),
    101: Architecture((3, 4, 23, 3), _WIDE, bottleneck_block),
    152: Architecture((3, 8, 36, 3), _WIDE, bottleneck_block),
}
_V1 = {
    depth: replace(row, stride_in_first_1x1=row.block is bottleneck_block)
    for depth, row in _IMAGENET.items()
}
_V2 = {
    depth: replace(row, block=_PREACTIVATION[row.block], stem=imagenet_v2_stem, paper=_HE_2016)
    for depth, row in _IMAGENET.items()
}
_V2_KERAS = {
    depth: replace(row, stem=keras_v2_stem, stride_in_last_block=True) for depth, row in _V2.items()
}


def _cifar(blocks: int, filters: tuple[int, ...], **options: Any) -> Architecture:
    """Return a row with three stages for CIFAR's images and 10 classes."""
    data = {"image_size": 32, "classes": 10, "min_size": 4}
    return Architecture((blocks,) * 3, filters, **{"stem": cifar_stem, **data, **options})


# Section 4.2: 6n + 2 layers, with option A in all blocks. The paper's smallest network has 20
# layers.
_CIFAR = {6 * n + 2: _cifar(n, (16, 32, 64), shortcut="identity") for n in (1, 3, 5, 7, 9, 18, 200)}
_PLAIN = {depth: replace(row, shortcut="none") for depth, row in (_IMAGENET | _CIFAR).items()}
_CIFAR_V2 = {
    110: replace(_CIFAR[110], block=preactivation_basic_block, stem=cifar_v2_stem, paper=_HE_2016),
    # He et al. 2016, table 4: 9n + 2 layers of bottlenecks.
    **{
        9 * n + 2: _cifar(
            n,
            (64, 128, 256),
            block=preactivation_bottleneck_block,
            stem=cifar_v2_stem,
            paper=_HE_2016,
        )
        for n in (18, 111)
    },
}


def _row(row: Architecture, top_1: str | None, *cost: int) -> Architecture:
    """Return the row with its top-1 accuracy, and its cost in the order of `Cost`'s fields."""
    return replace(row, top_1=top_1, cost=Cost(*cost))


# One row for each model: the architecture, the published top-1 accuracy, and the cost (parameters,
# multiply-adds, bytes of activations).
ARCHITECTURES: dict[str, Architecture] = {
    "resnet18": _row(_IMAGENET[18], "69.8 (torchvision)", 11_689_512, 1_814_073_344, 38_471_408),
    "resnet34": _row(_IMAGENET[34], "73.3 (torchvision)", 21_797_672, 3_663_761_408, 56_033_008),
    "resnet50": _row(_IMAGENET[50], "76.1 (torchvision)", 25_557_032, 4_089_184_256, 157_373_168),
    "resnet101": _row(_IMAGENET[101], "77.4 (torchvision)", 44_549_160, 7_801_405_440, 232_436_464),
    "resnet152": _row(
        _IMAGENET[152], "78.3 (torchvision)", 60_192_808, 11_513_626_624, 325_161_712
    ),
    "resnet8": replace(_CIFAR[8]),
    "resnet20": _row(_CIFAR[20], "91.3 (paper)", 269_722, 40_551_040, 2_770_000),
    "resnet32": _row(_CIFAR[32], "92.5 (paper)", 464_154, 68_862_592, 4_375_632),
    "resnet44": _row(_CIFAR[44], "92.8 (paper)", 658_586, 97_174_144, 5_981_264),
    "resnet56": _row(_CIFAR[56], "93.0 (paper)", 853_018, 125_485_696, 7_586_896),
    "resnet110": _row(_CIFAR[110], "93.6 (paper)", 1_727_962, 252_887_680, 14_812_240),
    "resnet1202": _row(_CIFAR[1202], "92.1 (paper)", 19_421_274, 2_829_238_912, 160_924_752),
    "resnet18_v1": _row(_V1[18], None, 11_689_512, 1_814_073_344, 38_471_408),
    "resnet34_v1": _row(_V1[34], None, 21_797_672, 3_663_761_408, 56_033_008),
    "resnet50_v1": _row(
        _V1[50], "74.9 (keras.applications)", 25_557_032, 3_857_973_248, 147_882_736
    ),
    "resnet101_v1": _row(
        _V1[101], "76.4 (keras.applications)", 44_549_160, 7_570_194_432, 222_946_032
    ),
    "resnet152_v1": _row(
        _V1[152], "76.6 (keras.applications)", 60_192_808, 11_282_415_616, 315_671_280
    ),
    "resnet18_v2": _row(_V2[18], None, 11_687_720, 1_814_073_344, 32_952_048),
    "resnet34_v2": _row(_V2[34], None, 21_795_880, 3_663_761_408, 50_513_648),
    "resnet50_v2": _row(_V2[50], None, 25_549_352, 4_089_184_256, 146_535_152),
    "resnet101_v2": _row(_V2[101], None, 44_541_480, 7_801_405_440, 221_598_448),
    "resnet152_v2": _row(_V2[152], None, 60_185_128, 11_513_626_624, 314_323_696),
    "resnet50_v2_keras": _row(
        _V2_KERAS[50], "76.0 (keras.applications)", 25_549_416, 3_482_255_360, 120_013_552
    ),
    "resnet101_v2_keras": _row(
        _V2_KERAS[101], "77.2 (keras.applications)", 44_541_544, 7_194_476_544, 195_076_848
    ),
    "resnet152_v2_keras": _row(
        _V2_KERAS[152], "78.0 (keras.applications)", 60_185_192, 10_906_697_728, 287_802_096
    ),
    "resnet110_v2": _row(_CIFAR_V2[110], "93.6 (paper)", 1_727_962, 252_887_680, 14_812_240),
    "resnet164_v2": _row(_CIFAR_V2[164], "94.5 (paper)", 1_703_258, 247_646_720, 46_746_192),
    "resnet1001_v2": _row(_CIFAR_V2[1001], "95.1 (paper)", 10_327_706, 1_490_995_712, 281_397_840),
    "plain18": _row(_PLAIN[18], "72.1 (paper, ten crops)", 11_515_688, 1_794_805_760, 34_055_920),
    "plain34": _row(_PLAIN[34], "71.5 (paper, ten crops)", 21_623_848, 3_644_493_824, 49_108_720),
    "plain8": replace(_PLAIN[8]),
    "plain20": _row(_PLAIN[20], None, 269_722, 40_551_040, 2_376_784),
    "plain32": _row(_PLAIN[32], None, 464_154, 68_862_592, 3_753_040),
    "plain44": _row(_PLAIN[44], None, 658_586, 97_174_144, 5_129_296),
    "plain56": _row(_PLAIN[56], None, 853_018, 125_485_696, 6_505_552),
    "plain110": _row(_PLAIN[110], None, 1_727_962, 252_887_680, 12_698_704),
    "wide_resnet28_10": _row(
        _cifar(
            4,
            (160, 320, 640),
            block=preactivation_basic_block,
            stem=cifar_v2_stem,
            paper="Zagoruyko and Komodakis 2016, arXiv:1605.07146",  # table 1
            function="WideResNet28x10",
        ),
        "96.0 (paper)",
        36_479_194,
        5_243_328_768,
        34_613_328,
    ),
    "resnext50_32x4d": _row(
        replace(
            _IMAGENET[50],
            reduction=2,
            groups=32,
            paper="Xie et al. 2017, arXiv:1611.05431",  # table 1
            function="ResNeXt50",
        ),
        "77.6 (torchvision)",
        25_028_904,
        4_230_479_872,
        199_979_760,
    ),
}


def resnet(
    architecture: str | Architecture,
    input_shape: InputShape | None = None,
    classes: int | None = None,
    *,
    shortcut: str | None = None,
    small_stem: bool = False,
    input_tensor: KerasTensor | None = None,
    name: str | None = None,
    **heads: Unpack[HeadOptions],
) -> keras.Model:
    """Build a residual network: images [N, H, W, C] -> probabilities [N, K].

    Args:
        architecture: the name of a row of ARCHITECTURES, or a row of your own.
        input_shape: (H, W, C) of the images; by default the value in the row.
        classes: number of classes, K; by default the value in the row.
        shortcut: a key of SHORTCUTS, or the paper's letter A, B or C; by default the value in the
            row.
        small_stem: if True, replace the stem for ImageNet by a 3x3 convolution with stride 1 and
            the same number of filters, so that the first block gets a map of the images' size.
        input_tensor: a tensor to use instead of a new input.
        name: the model's name; by default the name of the row, or `resnet` for a row of your own.
        heads: the options of `heads.assemble`. `aux_heads=True` adds auxiliary classifiers (deep
            supervision) after all stages but the last.

    Raises:
        ValueError: there is no such row, or an argument is out of its range.
    """
    if isinstance(architecture, str):
        name = name or architecture
        row = find(architecture, ARCHITECTURES, "ResNet")
    else:
        row = architecture
    add_shortcut = find_shortcut(row.shortcut if shortcut is None else shortcut)
    if small_stem and row.stem in _SMALL_STEMS:
        row = replace(row, stem=_SMALL_STEMS[row.stem], min_size=row.min_size // 4)
    shape = row.input_shape if input_shape is None else input_shape
    inputs = image_input(shape, row.min_size, input_tensor)
    x = row.stem(inputs)
    feature_maps: dict[str, KerasTensor] = {}
    for stage, (blocks, filters) in enumerate(zip(row.blocks, row.filters, strict=True), start=1):
        for number in range(1, blocks + 1):
            block_name = f"stage{stage}_block{number}"
            x = row.block(x, row, filters, row.stride(stage, number), add_shortcut, name=block_name)
        feature_maps[f"stage{stage}"] = x
    if row.preactivation:
        x = relu(batch_norm(x, name="final_bn"), name="final_relu")
        feature_maps[f"stage{len(row.blocks)}"] = x
    return assemble(
        inputs,
        feature_maps,
        classes=row.classes if classes is None else classes,
        default_aux_heads=tuple(feature_maps)[:-1],
        auxiliary_step=layers.conv_bn_relu,
        name=name or "resnet",
        **heads,
    )
