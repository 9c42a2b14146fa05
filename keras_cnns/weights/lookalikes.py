"""Recognize checkpoints that have the tensors of a ResNet, but whose networks differ from it.

Most variants in timm have additional tensors, for another stem, attention or other normalisations,
and can be recognized by the names of these tensors. timm's resnetblur18, resnetblur50 and
resnetaa50 have exactly the tensors of resnet18 and resnet50, because the blurring or averaging
before their strides has no weights. Only the name of the architecture can distinguish them. This
name is read from three places, in this order: the file's metadata (the `arch` or `args` of a
training checkpoint, the `__metadata__` of safetensors), the `architecture` in Hugging Face's
`config.json` beside the file, and the name of the file (timm's `resnetblur50-84f4748f.pth`). If a
file contains only a state dict of one of these three networks and was renamed, it is therefore
loaded, and the model gives wrong results. The same is true for a ResNet v1, whose stride is in
the 1x1 convolution (see `torch_checkpoint`).
"""

import re
from collections.abc import Iterable

from keras_cnns.weights.checkpoint import Architecture

# Pattern of a tensor's name, and the part of the file's network that our ResNet lacks.
_NAMES = (
    (r"(stem\.)?conv1\.\d\.weight|stem\.conv\d\.weight", "a stem of several convolutions"),
    (r".*\.aa\.filt", "blur pooling (timm's resnetblur50)"),
    (r"layer\d+\.\d+\.se\.fc\d?\..*", "squeeze-and-excitation (timm's seresnet50)"),
    (r"layer\d+\.\d+\.se\.conv\..*", "efficient channel attention (timm's ecaresnet50d)"),
    (r"layer\d+\.\d+\.conv\d\.(fc1|conv)\..*", "split attention (timm's resnest50d)"),
    (r"layer\d+\.\d+\.conv\d\.(paths|attn)\..*", "selective kernels (timm's skresnet50)"),
    (r"layer\d+\.\d+\.downsample\.2\..*", "pooling in its projections (timm's ecaresnetlight)"),
)
_FAMILY = r"(?<!den)(?<!dark)resne[sx]?t"
_DEPTH = r"(18|26|34|50|101|152|200|201|269)(?!\d)"
# Pattern of an architecture's name, and the part of that network that our ResNet lacks.
_ARCHITECTURES = (
    (_FAMILY + r"(v2_)?blur" + _DEPTH, "blur pooling before its strides"),
    (_FAMILY + r"(v2_)?aa" + _DEPTH, "average pooling before its strides"),
)


def differences(names: Iterable[str], architecture: Architecture | None) -> list[str]:
    """Return how a file's network differs from ResNet; each difference names its evidence.

    A file name with the names of several architectures, such as a teacher's and its student's, is
    not evidence.

    Args:
        names: names of the file's tensors.
        architecture: the name of the file's architecture, if any.
    """
    names = tuple(names)
    found = []
    if architecture is not None:
        name, evidence = architecture.name, f"its {architecture.given_in}"
        if architecture.given_in == "file name":
            name = name if len(re.findall(_FAMILY, name, re.IGNORECASE)) == 1 else ""
        else:
            evidence += f" gives the architecture {name}"
        for pattern, description in _ARCHITECTURES:
            if re.search(pattern, name, re.IGNORECASE):
                found.append(f"{description} ({evidence})")
    for pattern, description in _NAMES:
        tensor = next((name for name in names if re.fullmatch(pattern, name)), None)
        if tensor is not None:
            found.append(f"{description}: {tensor}")
    if not any(name.endswith("running_mean") for name in names):
        found.append("normalisation without running statistics, such as group normalisation")
    return found
