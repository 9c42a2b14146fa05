"""GoogLeNet (Szegedy et al. 2014, "Going Deeper with Convolutions"): table 1 is the code's table.

`googlenet` is the model that Caffe trained: biases, local response normalisation, no batch
normalisation. `googlenet_bn` has batch normalisation instead of both. `googlenet_tv` is
torchvision's, for its published weights. It differs from the paper: a 3x3 convolution instead of
the 5x5, a 2x2 window in the last pool, and auxiliary heads that pool adaptively to 4x4.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import keras
from keras import KerasTensor

from keras_cnns.models import layers
from keras_cnns.models.adaptive_pooling import adaptive_average_pool
from keras_cnns.models.heads import InputShape, PoolStep, assemble, image_input, strided_pool
from keras_cnns.models.layers import ConvStep, conv_relu
from keras_cnns.suggestions import find


class Inception(NamedTuple):
    """Filters of one inception module: a row of the paper's table 1."""

    conv1x1: int
    conv3x3_reduce: int
    conv3x3: int
    conv5x5_reduce: int
    conv5x5: int
    pool_proj: int


POOL = "pool"
BODY: dict[str, Inception | str] = {
    "3a": Inception(64, 96, 128, 16, 32, 32),
    "3b": Inception(128, 128, 192, 32, 96, 64),
    "pool3": POOL,
    "4a": Inception(192, 96, 208, 16, 48, 64),
    "4b": Inception(160, 112, 224, 24, 64, 64),
    "4c": Inception(128, 128, 256, 24, 64, 64),
    "4d": Inception(112, 144, 288, 32, 64, 64),
    "4e": Inception(256, 160, 320, 32, 128, 128),
    "pool4": POOL,
    "5a": Inception(256, 160, 320, 32, 128, 128),
    "5b": Inception(384, 192, 384, 48, 128, 128),
}
AUXILIARY = ("4a", "4d")

# Below this height or width, the stem keeps conv1 at full resolution: 32x32 images then reach the
# inception modules as 8x8, 4x4 and 2x2 maps, where the paper's stem would leave 4x4, 2x2 and 1x1.
SMALL_IMAGE = 96
LEAST_SIZE = 16


@dataclass(frozen=True)
class Variant:
    """One row of the family: how a model of table 1 was built in practice."""

    step: ConvStep = conv_relu  # a convolution and what follows it
    normalise: bool = True  # local response normalisation in the stem
    wide_kernel: int = 5  # of the branch that the paper gives 5x5 windows
    last_pool: int = 3  # window of the pool before 5a
    dropout: float = 0.4  # fraction of the pooled features that is dropped in training
    auxiliary_pool: PoolStep = strided_pool  # of the auxiliary heads, to 4x4 positions


conv_bn_relu = partial(layers.conv_bn_relu, epsilon=1e-3)
VARIANTS: dict[str, Variant] = {
    "googlenet": Variant(),
    "googlenet_bn": Variant(conv_bn_relu, normalise=False),
    "googlenet_tv": Variant(
        conv_bn_relu,
        normalise=False,
        wide_kernel=3,
        last_pool=2,
        dropout=0.2,
        auxiliary_pool=adaptive_average_pool,
    ),
}


def inception_module(
    x: KerasTensor,
    filters: Inception,
    *,
    naive: bool = False,
    step: ConvStep = conv_relu,
    wide_kernel: int = 5,
    name: str,
) -> KerasTensor:
    """Apply four window sizes to x in parallel and concatenate their outputs (figure 2).

    [N, H, W, C] -> [N, H, W, conv1x1 + conv3x3 + conv5x5 + pool_proj]. The 1x1 convolutions before
    the 3x3 and the 5x5 reduce the channels first, which is what makes wide windows affordable. For
    module 3a, on 28x28 positions of 192 channels:

    | form                     | channels out | parameters | multiply-adds |
    |--------------------------|-------------:|-----------:|--------------:|
    | naive (figure 2a)        |          416 |    387,296 |   303,464,448 |
    | with reduction (2b)      |          256 |    163,696 |   128,049,152 |

    and the naive form's next module has to read its 416 channels.

    Args:
        x: the feature map.
        filters: a row of table 1; the naive form leaves out the reductions and `pool_proj`.
        naive: figure 2a, every branch on x itself and the pool as it is.
        step: a convolution and what follows it.
        wide_kernel: window of the widest branch, in pixels.
        name: prefix of the layers' names.
    """
    pool = keras.layers.MaxPooling2D(3, strides=1, padding="same", name=f"{name}_pool")(x)
    reduced3 = reduced5 = x
    if not naive:
        reduced3 = step(x, filters.conv3x3_reduce, 1, name=f"{name}_3x3_reduce")
        reduced5 = step(x, filters.conv5x5_reduce, 1, name=f"{name}_5x5_reduce")
        pool = step(pool, filters.pool_proj, 1, name=f"{name}_pool_proj")
    branches = [
        step(x, filters.conv1x1, 1, name=f"{name}_1x1"),
        step(reduced3, filters.conv3x3, 3, name=f"{name}_3x3"),
        step(reduced5, filters.conv5x5, wide_kernel, name=f"{name}_5x5"),
        pool,
    ]
    return keras.layers.Concatenate(name=f"{name}_output")(branches)


def googlenet(
    variant_name: str,
    input_shape: InputShape = (224, 224, 3),
    classes: int = 1000,
    *,
    aux_heads: bool | Iterable[str] = False,
    input_tensor: KerasTensor | None = None,
    name: str | None = None,
    **heads: Any,
) -> keras.Model:
    """Build GoogLeNet: images [N, H, W, C] -> probabilities [N, K].

    With auxiliary heads the output is a dict of them: `main`, `aux1`, `aux2`. Below 96 pixels the
    stem's first convolution keeps the full resolution.

    Args:
        variant_name: a row of VARIANTS.
        input_shape: (H, W, C) of the images, from 16x16 up.
        classes: number of classes, K.
        aux_heads: True for the paper's two, after 4a and 4d; or the modules to put one on.
        input_tensor: a tensor to use instead of a new input.
        name: the model's name; by default the variant's.
        heads: `features`, `include_top`, `pooling`, `classifier_activation`, `weights`: see
            `heads.assemble`.

    Raises:
        ValueError: an argument is out of its range, or the file of `weights` does not fit.
    """
    variant = find(variant_name, VARIANTS, "GoogLeNet")
    step = variant.step
    inputs = image_input(input_shape, LEAST_SIZE, input_tensor)
    small = min(size or SMALL_IMAGE for size in inputs.shape[1:3]) < SMALL_IMAGE

    def normalise(x: KerasTensor, name: str) -> KerasTensor:
        return layers.LocalResponseNormalization(name=name)(x) if variant.normalise else x

    x = step(inputs, 64, 7, stride=1 if small else 2, name="conv1")
    x = layers.max_pool(x, name="pool1")
    x = normalise(x, "norm1")
    x = step(x, 64, 1, name="conv2_reduce")
    x = step(x, 192, 3, name="conv2")
    feature_maps = {"stage1": x}
    x = normalise(x, "norm2")
    x = layers.max_pool(x, name="pool2")
    for module, filters in BODY.items():
        if isinstance(filters, Inception):
            x = inception_module(
                x,
                filters,
                step=step,
                wide_kernel=variant.wide_kernel,
                name=f"inception_{module}",
            )
            feature_maps[module] = x
        else:
            window = variant.last_pool if module == "pool4" else 3
            x = layers.max_pool(x, window, name=module)
    feature_maps |= {"stage2": feature_maps["3b"], "stage3": feature_maps["4e"], "stage4": x}
    return assemble(
        inputs,
        feature_maps,
        classes=classes,
        aux_heads=aux_heads,
        default_aux_heads=AUXILIARY,
        auxiliary_step=step,
        auxiliary_pool=variant.auxiliary_pool,
        dropout=variant.dropout,
        name=name or variant_name,
        **heads,
    )
