"""The origins torchvision (ResNet, GoogLeNet) and timm (ResNet, ResNetV2).

The tensors of ResNet and ResNeXt have the same names in torchvision and timm. Both packages have
ResNet v1.5. The file of a ResNet v1, whose stride is in the 1x1 convolution, has the same names and
shapes and cannot be distinguished, so the caller chooses between `resnet50` and `resnet50_v1`.
The module `lookalikes` recognizes most files of timm's variants of ResNet, for example with another
stem, so that they are refused.

torchvision's GoogLeNet was trained on pixels from -1 to 1; its `transform_input` converts images
with ImageNet's usual normalisation to this range. `googlenet_tv` has no such step: its input is
pixels / 127.5 - 1. Its auxiliary heads pool adaptively to 4x4, and therefore agree with
torchvision's at every image size.
"""

from collections.abc import Callable
from functools import partial

from keras_cnns.weights.checkpoint import Array
from keras_cnns.weights.lookalikes import differences
from keras_cnns.weights.origin import Blocks, FileTensors, Origin, Rule, translate, unchanged
from keras_cnns.weights.structure import BLOCK, ModelVariable

_VARIABLES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_RESNET: tuple[Rule, ...] = (
    (r"stem_conv", "conv1"),
    (r"stem_bn", "bn1"),
    (BLOCK + r"(?P<kind>conv|bn)(?P<number>\d)", "layer{stage}.{block_before}.{kind}{number}"),
    (BLOCK + r"shortcut_conv", "layer{stage}.{block_before}.downsample.0"),
    (BLOCK + r"shortcut_bn", "layer{stage}.{block_before}.downsample.1"),
    (r"logits", "fc"),
)
_RESNET_V2: tuple[Rule, ...] = (
    (r"stem_conv", "stem.conv"),
    (BLOCK + r"conv(?P<number>\d)", "stages.{stage_before}.blocks.{block_before}.conv{number}"),
    (BLOCK + r"bn(?P<number>\d)", "stages.{stage_before}.blocks.{block_before}.norm{number}"),
    (BLOCK + r"shortcut_conv", "stages.{stage_before}.blocks.{block_before}.downsample.conv"),
    (r"final_bn", "norm"),
    (r"logits", "head.fc"),
)
_KIND = r"(?P<kind>conv|bn)"
_MODULE = r"inception_(?P<module>\d\w)_"
_GOOGLENET: tuple[Rule, ...] = (
    (r"conv1_" + _KIND, "conv1.{kind}"),
    (r"conv2_reduce_" + _KIND, "conv2.{kind}"),
    (r"conv2_" + _KIND, "conv3.{kind}"),
    (_MODULE + r"1x1_" + _KIND, "inception{module}.branch1.{kind}"),
    (_MODULE + r"3x3_reduce_" + _KIND, "inception{module}.branch2.0.{kind}"),
    (_MODULE + r"3x3_" + _KIND, "inception{module}.branch2.1.{kind}"),
    (_MODULE + r"5x5_reduce_" + _KIND, "inception{module}.branch3.0.{kind}"),
    (_MODULE + r"5x5_" + _KIND, "inception{module}.branch3.1.{kind}"),
    (_MODULE + r"pool_proj_" + _KIND, "inception{module}.branch4.1.{kind}"),
    (r"aux(?P<number>\d)_" + _KIND, "aux{number}.conv.{kind}"),
    (r"aux(?P<number>\d)_dense", "aux{number}.fc1"),
    (r"logits_aux(?P<number>\d)", "aux{number}.fc2"),
    (r"logits", "fc"),
)
# Number of filters of an auxiliary head's convolution. The head flattens its output.
_AUXILIARY_FILTERS = 128


def _convolution(kernel: Array) -> Array:
    """Transpose a kernel from torch's order of axes to Keras'.

    [filters, channels / groups, height, width] -> [height, width, channels / groups, filters].

    Raises:
        ValueError: the kernel does not have four axes.
    """
    return kernel.transpose(2, 3, 1, 0)


def _dense(kernel: Array) -> Array:
    """Transpose a dense layer's or 1x1 convolution's kernel: [K, D] or [K, D, 1, 1] -> [D, K]."""
    if kernel.ndim == 4 and kernel.shape[2:] == (1, 1):
        kernel = kernel[:, :, 0, 0]
    return kernel.T


def _dense_on_a_map(kernel: Array) -> Array:
    """Reorder the inputs of a kernel, because torch flattens channels first: [K, CHW] -> [HWC, K].

    Raises:
        ValueError: the number of inputs is not a multiple of _AUXILIARY_FILTERS, the number of
            channels of the map that is flattened before this layer.
    """
    units = kernel.shape[0]
    return kernel.reshape(units, _AUXILIARY_FILTERS, -1).transpose(2, 1, 0).reshape(-1, units)


def _tensors_by(rules: tuple[Rule, ...], variable: ModelVariable, _: Blocks) -> FileTensors | None:
    """Return the tensors of a variable; None if no rule matches its layer."""
    layer = translate(variable.layer, rules)
    if layer is None or variable.name not in _VARIABLES:
        return None
    convert: Callable[..., Array] = unchanged
    if variable.name == "kernel":
        convert = _convolution if len(variable.shape) == 4 else _dense
        if variable.layer.endswith("_dense"):
            convert = _dense_on_a_map
    return FileTensors((f"{layer}.{_VARIABLES[variable.name]}",), convert)


# Classifiers, and the heads of self-supervised training (SimCLR, SimSiam, BYOL).
_HEADS = (
    r"((cls_)?head\.)?fc\.(\d+\..*|weight|bias)"
    r"|proj(ector|ection(_head)?)?\..*|predictor\..*"
)
# Names of MMPretrain's classifier, and of a classifier that is a Sequential with one layer that has
# weights.
_CLASSIFIER = (r"^(head\.)?fc\.(\d+\.)?(?=(weight|bias)$)", "fc.")
_COUNTER = r".*\.num_batches_tracked"  # torch reads it only in training
ORIGINS = (
    Origin(
        title="torchvision's GoogLeNet",
        signature=r"inception\d\w\.branch1\.conv\.weight",
        layouts=("googlenet_tv",),
        tensors_of=partial(_tensors_by, _GOOGLENET),
        heads=_HEADS + r"|aux[12]\..*",
        synonym=_CLASSIFIER,
        stem="conv1.conv.weight",
        channels_axis=1,
        classifier="fc.bias",
        ignored=_COUNTER,
    ),
    Origin(
        title="timm's ResNetV2",
        signature=r"stages\.\d+\.blocks\.\d+\.norm1\.weight",
        layouts=("resnet_v2",),
        tensors_of=partial(_tensors_by, _RESNET_V2),
        heads=_HEADS,
        stem="stem.conv.weight",
        channels_axis=1,
        classifier="head.fc.bias",
        ignored=_COUNTER,
        differences=differences,
    ),
    Origin(
        title="torchvision's or timm's ResNet",
        signature=r"layer\d+\.\d+\.conv\d\..*weight",
        layouts=("resnet", "resnet_v1"),
        tensors_of=partial(_tensors_by, _RESNET),
        heads=_HEADS,
        stem="conv1.weight",
        channels_axis=1,
        classifier="fc.bias",
        ignored=_COUNTER,
        synonym=_CLASSIFIER,
        differences=differences,
    ),
)
