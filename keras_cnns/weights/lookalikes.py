"""Checkpoints whose tensors are named as ResNet's, from networks that compute something else.

The names of the tensors show most variants in timm: another stem, attention in the blocks, other
normalisations. timm's resnetblur18, resnetblur50 and resnetaa50 have exactly the tensors of
resnet18 and resnet50, as they blur or average without weights before they stride: only metadata
can distinguish them, the `arch` or `args` of a training checkpoint or the `__metadata__` of
safetensors. A bare state dict of these three has none and is loaded, with wrong answers. The same
holds for a ResNet v1, which strides in the 1x1 (see `torch_checkpoint`).
"""

import re
from collections.abc import Iterable

# Pattern of a tensor's name, and what the network has that ResNet has not.
NAMES = (
    (r"(stem\.)?conv1\.\d\.weight|stem\.conv\d\.weight", "a stem of several convolutions"),
    (r".*\.aa\.filt", "blur pooling (timm's resnetblur50)"),
    (r"layer\d+\.\d+\.se\.fc\d?\..*", "squeeze-and-excitation (timm's seresnet50)"),
    (r"layer\d+\.\d+\.se\.conv\..*", "efficient channel attention (timm's ecaresnet50d)"),
    (r"layer\d+\.\d+\.conv\d\.(fc1|conv)\..*", "split attention (timm's resnest50d)"),
    (r"layer\d+\.\d+\.conv\d\.(paths|attn)\..*", "selective kernels (timm's skresnet50)"),
    (r"layer\d+\.\d+\.downsample\.2\..*", "pooling in its projections (timm's ecaresnetlight)"),
)
# Pattern of an architecture's name, and the same.
ARCHITECTURES = (
    (r".*resne[sx]?t(v2_)?blur.*", "blur pooling before its strides"),
    (r".*resne[sx]?t(v2_)?aa\d.*", "average pooling before its strides"),
)


def differences(names: Iterable[str], architecture: str | None) -> list[str]:
    """Return what distinguishes a file's network from ResNet, each with the evidence.

    Args:
        names: of the file's tensors.
        architecture: its name in the file's metadata, if any.
    """
    names = tuple(names)
    found = []
    for pattern, description in ARCHITECTURES:
        if architecture is not None and re.fullmatch(pattern, architecture, re.IGNORECASE):
            found.append(f"{description} (its metadata name it {architecture})")
    for pattern, description in NAMES:
        evidence = next((name for name in names if re.fullmatch(pattern, name)), None)
        if evidence is not None:
            found.append(f"{description}: {evidence}")
    if not any(name.endswith("running_mean") for name in names):
        found.append("normalisation without running statistics, such as group normalisation")
    return found
