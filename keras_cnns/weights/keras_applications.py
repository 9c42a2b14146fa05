"""keras.applications' ResNet50, 101, 152 and ResNet50V2, 101V2, 152V2, of every version of Keras.

Both have biases in convolutions that a batch normalisation follows; ours have none there. The
bias goes into the running mean, exactly: (x + b) - m = x - (m - b), so that m' = m - b.

In V2 the biases of the projections and of each block's last convolution are added to the residual
stream, which only batch normalisations read. A projection reads a normalised map, so that the
stream starts again at each stage, and accumulates the bias of each block until the stage's end.
Each normalisation of the stream gets m' = m - (the sum of the biases before it). The feature maps
`stage1` to `stage3` are the stream: they equal keras.applications' minus that sum, a constant for
each channel.

keras.applications' epsilon is 1.001e-5; the difference to ours goes into the running variance.
"""

import re
from collections.abc import Mapping

import numpy as np

from keras_cnns.models.layers import BATCH_NORM_EPSILON
from keras_cnns.weights.checkpoint import Array
from keras_cnns.weights.origin import BLOCK, Origin, Place, Rule, Source, translate

EPSILON = 1.001e-5
BLOCK_OF_FILE = r"conv(?P<stage>\d+)_block(?P<block>\d+)_"

BLOCK_NAME = "conv{stage_after}_block{block}"
RESNET: tuple[Rule, ...] = (
    (r"stem_(?P<kind>conv|bn)", "conv1_{kind}"),
    (BLOCK + r"(?P<kind>conv|bn)(?P<number>\d)", BLOCK_NAME + "_{number}_{kind}"),
    (BLOCK + r"shortcut_(?P<kind>conv|bn)", BLOCK_NAME + "_0_{kind}"),
    (r"logits", "predictions"),
)
RESNET_V2: tuple[Rule, ...] = (
    (r"stem_conv", "conv1_conv"),
    (BLOCK + r"conv(?P<number>\d)", BLOCK_NAME + "_{number}_conv"),
    (BLOCK + r"bn1", BLOCK_NAME + "_preact_bn"),
    (BLOCK + r"bn(?P<number>\d)", BLOCK_NAME + "_{number_before}_bn"),
    (BLOCK + r"shortcut_conv", BLOCK_NAME + "_0_conv"),
    (r"final_bn", "post_bn"),
    (r"logits", "predictions"),
)


def mean_minus_biases(mean: Array, *biases: Array) -> Array:
    """Return m' = m - sum(biases): the running mean of the map without the biases."""
    accumulated: Array = np.sum(biases, axis=0, dtype="float64")
    return (mean - accumulated).astype("float32")


def variance_for_our_epsilon(variance: Array) -> Array:
    """Return v' with v' + our epsilon = v + their epsilon."""
    return (variance.astype("float64") + (EPSILON - BATCH_NORM_EPSILON)).astype("float32")


def source_in_resnet(place: Place) -> Source | None:
    """Return the tensors of a variable of a `_v1` model."""
    name = translate(place.layer, RESNET)
    if name is None:
        return None
    biases = [f"{name.removesuffix('bn')}conv/bias"]
    return source_of(f"{name}/{place.variable}", biases)


def source_in_resnet_v2(place: Place) -> Source | None:
    """Return the tensors of a variable of a `_v2_keras` model."""
    name = translate(place.layer, RESNET_V2)
    if name is None:
        return None
    return source_of(f"{name}/{place.variable}", accumulated_biases(name, place.blocks))


def source_of(name: str, biases: list[str]) -> Source:
    """Return a tensor and the biases that are folded into it."""
    if name.endswith("/moving_mean"):
        return Source((name, *biases), mean_minus_biases)
    if name.endswith("/moving_variance"):
        return Source((name,), variance_for_our_epsilon)
    return Source((name,))


def accumulated_biases(norm: str, blocks: Mapping[int, int]) -> list[str]:
    """Return the biases that have been added to the residual stream before a normalisation of V2.

    Args:
        norm: the name of the normalisation's layer in the file; the result is empty if that layer
            does not read the stream.
        blocks: number of residual blocks in each stage, stages from 1.
    """
    if norm == "post_bn":
        stage, before = max(blocks), blocks[max(blocks)]
    elif match := re.fullmatch(BLOCK_OF_FILE + "preact_bn", norm):
        stage, before = int(match["stage"]) - 1, int(match["block"]) - 1
        if before == 0:  # the sum at the end of the stage before
            stage -= 1
            before = blocks.get(stage, 0)
    else:
        return []
    if before == 0:  # the stem keeps its bias, as the padding after it has none
        return []
    prefix = f"conv{stage + 1}_block"
    return [f"{prefix}1_0_conv/bias", *(f"{prefix}{n}_3_conv/bias" for n in range(1, before + 1))]


PUBLISHED = (r"^probs/", "predictions/")  # the classifier in files of older versions of Keras
HEADS = r"predictions/(kernel|bias)"
ORIGINS = (
    Origin(
        title="keras.applications' ResNet V2",
        signature=r"conv\d_block\d+_preact_bn/gamma",
        layouts=("resnet_v2_keras",),
        source=source_in_resnet_v2,
        heads=HEADS,
        stem="conv1_conv/kernel",
        channels_axis=2,
        classifier="predictions/bias",
        block=BLOCK_OF_FILE,
        first_block=(2, 1),
        synonym=PUBLISHED,
    ),
    Origin(
        title="keras.applications' ResNet",
        signature=r"conv\d_block\d+_3_conv/kernel",  # DenseNet has `_1_conv` and `_2_conv`
        layouts=("resnet_v1",),
        source=source_in_resnet,
        heads=HEADS,
        stem="conv1_conv/kernel",
        channels_axis=2,
        classifier="predictions/bias",
        block=BLOCK_OF_FILE,
        first_block=(2, 1),
        synonym=PUBLISHED,
    ),
)
