"""keras.applications' ResNet50, 101, 152 and ResNet50V2, 101V2, 152V2, of every version of Keras.

In both families, convolutions before a batch normalisation have biases, which our models lack. The
bias b is folded into the running mean m, which becomes m' = m - b. This is exact:
(x + b) - m = x - (m - b).

In V2, the biases of the projections and of each block's last convolution are added to the residual
stream, to which only batch normalisations are applied. The input of a projection is a normalised
map without these biases. The sum of the biases therefore starts again at the projection of each
stage, and grows with each block until the end of the stage. Each normalisation of the stream gets
m' = m - sum(biases before it). The feature maps `stage1` to `stage3` are parts of the stream. They
equal the maps of keras.applications minus this sum, which is a constant for each channel.

The epsilon of keras.applications is 1.001e-5. The difference between this epsilon and ours is added
to the running variance.
"""

import re

import numpy as np

from keras_cnns.models.layers import BATCH_NORM_EPSILON
from keras_cnns.weights.checkpoint import Array
from keras_cnns.weights.origin import Blocks, FileTensors, Origin, Rule, translate
from keras_cnns.weights.structure import BLOCK, ModelVariable

_EPSILON = 1.001e-5
_BLOCK_OF_FILE = r"conv(?P<stage>\d+)_block(?P<block>\d+)_"

_BLOCK_NAME = "conv{stage_after}_block{block}"
_RESNET: tuple[Rule, ...] = (
    (r"stem_(?P<kind>conv|bn)", "conv1_{kind}"),
    (BLOCK + r"(?P<kind>conv|bn)(?P<number>\d)", _BLOCK_NAME + "_{number}_{kind}"),
    (BLOCK + r"shortcut_(?P<kind>conv|bn)", _BLOCK_NAME + "_0_{kind}"),
    (r"logits", "predictions"),
)
_RESNET_V2: tuple[Rule, ...] = (
    (r"stem_conv", "conv1_conv"),
    (BLOCK + r"conv(?P<number>\d)", _BLOCK_NAME + "_{number}_conv"),
    (BLOCK + r"bn1", _BLOCK_NAME + "_preact_bn"),
    (BLOCK + r"bn(?P<number>\d)", _BLOCK_NAME + "_{number_before}_bn"),
    (BLOCK + r"shortcut_conv", _BLOCK_NAME + "_0_conv"),
    (r"final_bn", "post_bn"),
    (r"logits", "predictions"),
)


def _mean_minus_biases(mean: Array, *biases: Array) -> Array:
    """Return m' = m - sum(biases), the running mean of the map without the biases."""
    accumulated: Array = np.sum(biases, axis=0, dtype="float64")
    return (mean - accumulated).astype("float32")


def _variance_for_our_epsilon(variance: Array) -> Array:
    """Return v' such that v' + our epsilon = v + their epsilon."""
    return (variance.astype("float64") + (_EPSILON - BATCH_NORM_EPSILON)).astype("float32")


def _resnet(variable: ModelVariable, _: Blocks) -> FileTensors | None:
    """Return the tensors of a variable of a `_v1` model."""
    layer = translate(variable.layer, _RESNET)
    if layer is None:
        return None
    return _with_biases(layer, variable, [f"{layer.removesuffix('bn')}conv/bias"])


def _resnet_v2(variable: ModelVariable, blocks: Blocks) -> FileTensors | None:
    """Return the tensors of a variable of a `_v2_keras` model."""
    layer = translate(variable.layer, _RESNET_V2)
    if layer is None:
        return None
    return _with_biases(layer, variable, accumulated_biases(layer, blocks))


def _with_biases(layer: str, variable: ModelVariable, biases: list[str]) -> FileTensors:
    """Return the tensor of a variable and, for a mean, the biases that are folded into it."""
    name = f"{layer}/{variable.name}"
    if variable.name == "moving_mean":
        return FileTensors((name, *biases), _mean_minus_biases)
    if variable.name == "moving_variance":
        return FileTensors((name,), _variance_for_our_epsilon)
    return FileTensors((name,))


def accumulated_biases(norm: str, blocks: Blocks) -> list[str]:
    """Return the biases that have been added to the residual stream before a normalisation of V2.

    Args:
        norm: the name of the normalisation layer in the file; the result is empty if this layer is
            not applied to the stream.
        blocks: number of residual blocks in each stage; stages are counted from 1.
    """
    if norm == "post_bn":
        stage, before = max(blocks), blocks[max(blocks)]
    elif match := re.fullmatch(_BLOCK_OF_FILE + "preact_bn", norm):
        stage, before = int(match["stage"]) - 1, int(match["block"]) - 1
        if before == 0:  # return the sum at the end of the previous stage
            stage -= 1
            before = blocks.get(stage, 0)
    else:
        return []
    if before == 0:
        # The stem keeps its bias: the zeros that are padded after the stem do not contain the bias.
        return []
    prefix = f"conv{stage + 1}_block"
    return [f"{prefix}1_0_conv/bias", *(f"{prefix}{n}_3_conv/bias" for n in range(1, before + 1))]


_PUBLISHED = (r"^probs/", "predictions/")  # the classifier's name in files of older versions
_HEADS = r"predictions/(kernel|bias)"
ORIGINS = (
    Origin(
        title="keras.applications' ResNet V2",
        signature=r"conv\d_block\d+_preact_bn/gamma",
        layouts=("resnet_v2_keras",),
        tensors_of=_resnet_v2,
        heads=_HEADS,
        stem="conv1_conv/kernel",
        channels_axis=2,
        classifier="predictions/bias",
        synonym=_PUBLISHED,
    ),
    Origin(
        title="keras.applications' ResNet",
        signature=r"conv\d_block\d+_3_conv/kernel",  # DenseNet has only `_1_conv` and `_2_conv`
        layouts=("resnet_v1",),
        tensors_of=_resnet,
        heads=_HEADS,
        stem="conv1_conv/kernel",
        channels_axis=2,
        classifier="predictions/bias",
        synonym=_PUBLISHED,
    ),
)
