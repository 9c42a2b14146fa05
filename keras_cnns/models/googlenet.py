"""GoogLeNet (Szegedy et al. 2014, "Going Deeper with Convolutions"); `BODY` is its table 1.

`googlenet` is the paper's model in the form of Caffe's bvlc_googlenet: it has biases and local
response normalisation, and no batch normalisation. `googlenet_bn` has batch normalisation instead
of biases and local response normalisation. `googlenet_tv` is torchvision's model, for its published
weights. It differs from the paper in three details: 3x3 convolutions replace the 5x5 convolutions,
the last pool has a 2x2 window, and the auxiliary heads pool adaptively to 4x4.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Unpack

import keras
from keras import KerasTensor

from keras_cnns.models import layers
from keras_cnns.models.adaptive_pooling import adaptive_average_pool
from keras_cnns.models.cost import Cost
from keras_cnns.models.heads import (
    HeadOptions,
    InputShape,
    PoolStep,
    assemble,
    image_input,
    strided_pool,
)
from keras_cnns.models.layers import ConvStep, conv_relu
from keras_cnns.models.rows import Row
from keras_cnns.suggestions import find


class Inception(NamedTuple):
    """Numbers of filters of one inception module: a row of the paper's table 1."""

    conv1x1: int
    conv3x3_reduce: int
    conv3x3: int
    conv5x5_reduce: int
    conv5x5: int
    pool_proj: int

    def scaled(self, width: float) -> "Inception":
        """Return the row with each number of filters multiplied by `width`, but at least 1."""
        return Inception(*(max(round(width * filters), 1) for filters in self))


# The branches of a module in the order of their concatenation.
BRANCHES = ("1x1", "3x3", "5x5", "pool")
_POOL = "pool"
BODY: dict[str, Inception | str] = {
    "3a": Inception(64, 96, 128, 16, 32, 32),
    "3b": Inception(128, 128, 192, 32, 96, 64),
    "pool3": _POOL,
    "4a": Inception(192, 96, 208, 16, 48, 64),
    "4b": Inception(160, 112, 224, 24, 64, 64),
    "4c": Inception(128, 128, 256, 24, 64, 64),
    "4d": Inception(112, 144, 288, 32, 64, 64),
    "4e": Inception(256, 160, 320, 32, 128, 128),
    "pool4": _POOL,
    "5a": Inception(256, 160, 320, 32, 128, 128),
    "5b": Inception(384, 192, 384, 48, 128, 128),
}
_AUXILIARY = ("4a", "4d")

# If the height or width is below this, conv1 has stride 1. For 32x32 images, the feature maps of
# the inception modules are then 8x8, 4x4 and 2x2; with the paper's stem they would be 4x4, 2x2 and
# 1x1.
_SMALL_IMAGE = 96


@dataclass(frozen=True)
class Variant(Row):
    """One model of the family: the details in which implementations of table 1 differ.

    Attributes:
        step: a convolution, its normalisation and its activation.
        normalise: whether the stem has local response normalisation.
        wide_kernel: the window of the branch whose window is 5x5 in the paper.
        last_pool: the window of the pool before module 5a.
        dropout: the fraction of the pooled features that is dropped in training.
        auxiliary_pool: the average pool of the auxiliary heads; its result has 4x4 pixels.
    """

    step: ConvStep = conv_relu
    normalise: bool = True
    wide_kernel: int = 5
    last_pool: int = 3
    dropout: float = 0.4
    auxiliary_pool: PoolStep = strided_pool
    min_size: int = field(default=16, kw_only=True)
    paper: str = field(default="Szegedy et al. 2014, arXiv:1409.4842", compare=False, kw_only=True)


_conv_bn_relu = partial(layers.conv_bn_relu, epsilon=1e-3)
# One row for each model: the variant, the published top-1 accuracy, and the cost (parameters,
# multiply-adds, bytes of activations).
VARIANTS: dict[str, Variant] = {
    "googlenet": Variant(
        top_1="68.7 (Caffe)",
        cost=Cost(6_998_552, 1_582_671_872, 40_283_760),
        function="GoogLeNet",
    ),
    "googlenet_bn": Variant(
        _conv_bn_relu,
        normalise=False,
        cost=Cost(7_005_832, 1_582_671_872, 49_977_136),
        function="GoogLeNetBN",
    ),
    "googlenet_tv": Variant(
        _conv_bn_relu,
        normalise=False,
        wide_kernel=3,
        last_pool=2,
        dropout=0.2,
        auxiliary_pool=adaptive_average_pool,
        top_1="69.8 (torchvision)",
        cost=Cost(6_624_904, 1_498_376_192, 49_977_136),
        function="GoogLeNetTV",
    ),
}


def inception_module(
    x: KerasTensor,
    filters: Inception,
    *,
    naive: bool = False,
    branches: Sequence[str] = BRANCHES,
    step: ConvStep = conv_relu,
    wide_kernel: int = 5,
    name: str,
) -> KerasTensor:
    """Apply four branches to x in parallel, and concatenate their outputs (figure 2).

    [N, H, W, C] -> [N, H, W, conv1x1 + conv3x3 + conv5x5 + pool_proj]. 1x1 convolutions before the
    3x3 and the 5x5 convolution reduce the number of channels, so that wide windows cost less. For
    module 3a, with a 28x28 map of 192 channels:

    | form                     | channels out | parameters | multiply-adds |
    |--------------------------|-------------:|-----------:|--------------:|
    | naive (figure 2a)        |          416 |    387,296 |   303,464,448 |
    | with reduction (2b)      |          256 |    163,696 |   128,049,152 |

    With the naive form, the input of the next module has 416 channels.

    Args:
        x: the feature map.
        filters: a row of table 1; the naive form does not use the reductions and `pool_proj`.
        naive: if True, build figure 2a: no branch has a reduction, and no convolution follows the
            pool.
        branches: the branches to build, names of BRANCHES; the output has only their channels.
        step: a convolution, its normalisation and its activation.
        wide_kernel: window of the widest branch, in pixels.
        name: prefix of the layers' names.

    Raises:
        ValueError: `branches` is empty, or names a branch that does not exist.
    """
    if not branches or not set(branches) <= set(BRANCHES):
        raise ValueError(
            f"inception_branches is {list(branches)}; it must be some of {', '.join(BRANCHES)}"
        )

    pool = reduced3 = reduced5 = x
    if "pool" in branches:
        pool = keras.layers.MaxPooling2D(3, strides=1, padding="same", name=f"{name}_pool")(x)
    if "3x3" in branches and not naive:
        reduced3 = step(x, filters.conv3x3_reduce, 1, name=f"{name}_3x3_reduce")
    if "5x5" in branches and not naive:
        reduced5 = step(x, filters.conv5x5_reduce, 1, name=f"{name}_5x5_reduce")
    if "pool" in branches and not naive:
        pool = step(pool, filters.pool_proj, 1, name=f"{name}_pool_proj")
    outputs = []
    if "1x1" in branches:
        outputs.append(step(x, filters.conv1x1, 1, name=f"{name}_1x1"))
    if "3x3" in branches:
        outputs.append(step(reduced3, filters.conv3x3, 3, name=f"{name}_3x3"))
    if "5x5" in branches:
        outputs.append(step(reduced5, filters.conv5x5, wide_kernel, name=f"{name}_5x5"))
    if "pool" in branches:
        outputs.append(pool)
    if len(outputs) == 1:
        return keras.layers.Identity(name=f"{name}_output")(outputs[0])
    return keras.layers.Concatenate(name=f"{name}_output")(outputs)


def googlenet(
    variant: str | Variant,
    input_shape: InputShape | None = None,
    classes: int | None = None,
    *,
    naive: bool = False,
    branches: Sequence[str] = BRANCHES,
    width: float = 1.0,
    small_stem: bool = False,
    input_tensor: KerasTensor | None = None,
    name: str | None = None,
    **heads: Unpack[HeadOptions],
) -> keras.Model:
    """Build GoogLeNet: images [N, H, W, C] -> probabilities [N, K].

    If the height or width is below 96 pixels, the first convolution has stride 1.

    Args:
        variant: the name of a row of VARIANTS, or a row of your own.
        input_shape: (H, W, C) of the images, at least 16x16; by default the value in the row.
        classes: number of classes, K; by default the value in the row.
        naive: if True, build the naive modules of figure 2a, whose pools keep all channels.
        branches: the branches of each module, names of BRANCHES.
        width: a factor for the number of filters of each convolution in the stem and the modules,
            above 0.
        small_stem: if True, build the first convolution with a window of 3x3 and stride 1, and
            omit the pool after it: module 3a then has half the height and width of the images.
        input_tensor: a tensor to use instead of a new input.
        name: the model's name; by default the name of the row, or `googlenet` for a row of your
            own.
        heads: the options of `heads.assemble`. `aux_heads=True` adds the paper's two auxiliary
            classifiers, after modules 4a and 4d; the output is then a dict of `main`, `aux1` and
            `aux2`.

    Raises:
        ValueError: there is no such row, or an argument is out of its range.
    """
    if isinstance(variant, str):
        name = name or variant
        row = find(variant, VARIANTS, "GoogLeNet")
    else:
        row = variant
    if width <= 0:
        raise ValueError(f"width is {width}; it must be above 0")
    step = row.step
    shape = row.input_shape if input_shape is None else input_shape
    inputs = image_input(shape, row.min_size, input_tensor)
    small = min(size or _SMALL_IMAGE for size in inputs.shape[1:3]) < _SMALL_IMAGE

    def normalise(x: KerasTensor, name: str) -> KerasTensor:
        return layers.LocalResponseNormalization(name=name)(x) if row.normalise else x

    stem = [max(round(width * filters), 1) for filters in (64, 64, 192)]
    if small_stem:
        x = step(inputs, stem[0], 3, name="conv1")
    else:
        x = step(inputs, stem[0], 7, stride=1 if small else 2, name="conv1")
        x = layers.max_pool(x, name="pool1")
    x = normalise(x, "norm1")
    x = step(x, stem[1], 1, name="conv2_reduce")
    x = step(x, stem[2], 3, name="conv2")
    feature_maps = {"stage1": x}
    x = normalise(x, "norm2")
    x = layers.max_pool(x, name="pool2")
    for module, filters in BODY.items():
        if isinstance(filters, Inception):
            x = inception_module(
                x,
                filters.scaled(width),
                naive=naive,
                branches=branches,
                step=step,
                wide_kernel=row.wide_kernel,
                name=f"inception_{module}",
            )
            feature_maps[module] = x
        else:
            window = row.last_pool if module == "pool4" else 3
            x = layers.max_pool(x, window, name=module)
    feature_maps |= {"stage2": feature_maps["3b"], "stage3": feature_maps["4e"], "stage4": x}
    return assemble(
        inputs,
        feature_maps,
        classes=row.classes if classes is None else classes,
        default_aux_heads=_AUXILIARY,
        auxiliary_step=step,
        auxiliary_pool=row.auxiliary_pool,
        dropout=row.dropout,
        name=name or "googlenet",
        **heads,
    )
