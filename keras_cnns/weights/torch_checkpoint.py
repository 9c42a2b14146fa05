"""torchvision's ResNet and GoogLeNet, timm's ResNet and ResNetV2.

torchvision's and timm's ResNet and ResNeXt have the same names and are v1.5. A network that
strides in the 1x1 has the same names and shapes, so that its file cannot be distinguished: the
caller chooses between `resnet50` and `resnet50_v1`. `lookalikes` recognizes timm's variants.

torchvision's GoogLeNet was trained on pixels from -1 to 1, and its `transform_input` turns images
of ImageNet's usual normalisation into those. `googlenet_tv` has no such step: give it
pixels / 127.5 - 1. Its auxiliary heads pool adaptively to 4x4 as torchvision's, and agree with
them at every image size.
"""

from collections.abc import Callable

from keras_cnns.weights.checkpoint import Array
from keras_cnns.weights.lookalikes import differences
from keras_cnns.weights.origin import BLOCK, Origin, Place, Rule, Source, translate, unchanged

VARIABLES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
RESNET: tuple[Rule, ...] = (
    (r"stem_conv", "conv1"),
    (r"stem_bn", "bn1"),
    (BLOCK + r"(?P<kind>conv|bn)(?P<number>\d)", "layer{stage}.{block_before}.{kind}{number}"),
    (BLOCK + r"shortcut_conv", "layer{stage}.{block_before}.downsample.0"),
    (BLOCK + r"shortcut_bn", "layer{stage}.{block_before}.downsample.1"),
    (r"logits", "fc"),
)
RESNET_V2: tuple[Rule, ...] = (
    (r"stem_conv", "stem.conv"),
    (BLOCK + r"conv(?P<number>\d)", "stages.{stage_before}.blocks.{block_before}.conv{number}"),
    (BLOCK + r"bn(?P<number>\d)", "stages.{stage_before}.blocks.{block_before}.norm{number}"),
    (BLOCK + r"shortcut_conv", "stages.{stage_before}.blocks.{block_before}.downsample.conv"),
    (r"final_bn", "norm"),
    (r"logits", "head.fc"),
)
KIND = r"(?P<kind>conv|bn)"
MODULE = r"inception_(?P<module>\d\w)_"
GOOGLENET: tuple[Rule, ...] = (
    (r"conv1_" + KIND, "conv1.{kind}"),
    (r"conv2_reduce_" + KIND, "conv2.{kind}"),
    (r"conv2_" + KIND, "conv3.{kind}"),
    (MODULE + r"1x1_" + KIND, "inception{module}.branch1.{kind}"),
    (MODULE + r"3x3_reduce_" + KIND, "inception{module}.branch2.0.{kind}"),
    (MODULE + r"3x3_" + KIND, "inception{module}.branch2.1.{kind}"),
    (MODULE + r"5x5_reduce_" + KIND, "inception{module}.branch3.0.{kind}"),
    (MODULE + r"5x5_" + KIND, "inception{module}.branch3.1.{kind}"),
    (MODULE + r"pool_proj_" + KIND, "inception{module}.branch4.1.{kind}"),
    (r"aux(?P<number>\d)_" + KIND, "aux{number}.conv.{kind}"),
    (r"aux(?P<number>\d)_dense", "aux{number}.fc1"),
    (r"logits_aux(?P<number>\d)", "aux{number}.fc2"),
    (r"logits", "fc"),
)
AUXILIARY_FILTERS = 128  # of the convolution whose map an auxiliary head flattens


def convolution(kernel: Array) -> Array:
    """[filters, channels / groups, height, width] -> [height, width, channels / groups, filters].

    Raises:
        ValueError: the kernel does not have four axes.
    """
    return kernel.transpose(2, 3, 1, 0)


def dense(kernel: Array) -> Array:
    """[K, D], or as a 1x1 convolution [K, D, 1, 1], -> [D, K]."""
    if kernel.ndim == 4 and kernel.shape[2:] == (1, 1):
        kernel = kernel[:, :, 0, 0]
    return kernel.T


def dense_on_a_map(kernel: Array) -> Array:
    """[K, C * H * W] -> [H * W * C, K]: torch flattens a map channel by channel.

    Raises:
        ValueError: the map does not have AUXILIARY_FILTERS channels.
    """
    units = kernel.shape[0]
    return kernel.reshape(units, AUXILIARY_FILTERS, -1).transpose(2, 1, 0).reshape(-1, units)


def source_by(rules: tuple[Rule, ...], place: Place) -> Source | None:
    """Return the tensors of a variable; None if no rule matches its layer."""
    name = translate(place.layer, rules)
    if name is None or place.variable not in VARIABLES:
        return None
    convert: Callable[..., Array] = unchanged
    if place.variable == "kernel":
        convert = convolution if len(place.shape) == 4 else dense
        if place.layer.endswith("_dense"):
            convert = dense_on_a_map
    return Source((f"{name}.{VARIABLES[place.variable]}",), convert)


# Classifiers, and the heads of self-supervised training (SimCLR, SimSiam, BYOL).
HEADS = (
    r"((cls_)?head\.)?fc\.(\d+\..*|weight|bias)"
    r"|proj(ector|ection(_head)?)?\..*|predictor\..*"
)
# MMPretrain's classifier, and one that is the only layer with weights in a Sequential.
CLASSIFIER = (r"^(head\.)?fc\.(\d+\.)?(?=(weight|bias)$)", "fc.")
COUNTER = r".*\.num_batches_tracked"  # read only in training, by torch
ORIGINS = (
    Origin(
        title="torchvision's GoogLeNet",
        signature=r"inception\d\w\.branch1\.conv\.weight",
        layouts=("googlenet_tv",),
        source=lambda place: source_by(GOOGLENET, place),
        heads=HEADS + r"|aux[12]\..*",
        synonym=CLASSIFIER,
        stem="conv1.conv.weight",
        channels_axis=1,
        classifier="fc.bias",
        ignored=COUNTER,
    ),
    Origin(
        title="timm's ResNetV2",
        signature=r"stages\.\d+\.blocks\.\d+\.norm1\.weight",
        layouts=("resnet_v2",),
        source=lambda place: source_by(RESNET_V2, place),
        heads=HEADS,
        stem="stem.conv.weight",
        channels_axis=1,
        classifier="head.fc.bias",
        block=r"stages\.(?P<stage>\d+)\.blocks\.(?P<block>\d+)\.",
        first_block=(0, 0),
        ignored=COUNTER,
        differences=differences,
    ),
    Origin(
        title="torchvision's or timm's ResNet",
        signature=r"layer\d+\.\d+\.conv\d\..*weight",
        layouts=("resnet", "resnet_v1"),
        source=lambda place: source_by(RESNET, place),
        heads=HEADS,
        stem="conv1.weight",
        channels_axis=1,
        classifier="fc.bias",
        block=r"layer(?P<stage>\d+)\.(?P<block>\d+)\.",
        first_block=(1, 0),
        ignored=COUNTER,
        synonym=CLASSIFIER,
        differences=differences,
    ),
)
