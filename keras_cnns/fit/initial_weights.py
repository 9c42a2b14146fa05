"""Find the network and the preprocessing of given weights."""

import os
from dataclasses import dataclass
from pathlib import Path

from keras_cnns.weights import pretrained
from keras_cnns.weights.assignment import recognize
from keras_cnns.weights.files import read_checkpoint
from keras_cnns.weights.matching import models_that_fit

_PUBLISHED = "The network of the weights was trained with these values."
# The levels with which torchvision and timm normalise: ImageNet's mean and standard deviation.
_IMAGENET_MEAN = (123.675, 116.28, 103.53)
_IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class InitialWeights:
    """Weights from which a training starts instead of random ones."""

    source: str  # the value of `model.weights`
    model: str  # a key of MODELS
    mean: tuple[float, ...] = _IMAGENET_MEAN
    std: tuple[float, ...] = _IMAGENET_STD
    reason: str = (  # for the mean and the standard deviation
        "These are ImageNet's values, with which torchvision and timm train. The file does not "
        "state with which values its network was trained; if they were different, set them."
    )
    # The table's entry of published weights; None for a file.
    published: pretrained.Pretrained | None = None


def find_initial_weights(given: str, model: str = "") -> InitialWeights | None:
    """Return the weights that the user gave; None if the user gave none.

    No other function decides whether a training starts from given weights.

    Args:
        given: the path of a file, a name of published weights, or "".
        model: the network that the user named, whose existence the caller checks; if "", the
            network is recognised from the weights.

    Raises:
        ValueError: the file cannot be read, or fits no network.
    """
    if not given:
        return None
    if pretrained.is_name(given):
        row = pretrained.find(given, model or None)
        return InitialWeights(given, row.model, row.mean, row.std, _PUBLISHED, row)
    path = os.path.abspath(given)  # noqa: PTH100 - keeps symbolic links
    known = [row for row in pretrained.PRETRAINED.values() if row.file_name == Path(given).name]
    if known and model in ("", known[0].model):
        row = known[0]
        if row.bgr:
            raise ValueError(
                f"{given} was trained on BGR images; give the name of these weights instead, "
                f"{row.name}, which converts them to RGB"
            )
        return InitialWeights(path, row.model, row.mean, row.std, _PUBLISHED)
    if model:
        return InitialWeights(path, model)
    tensors, _ = read_checkpoint(given)
    origin, tensors = recognize(tensors, given)
    names = models_that_fit(origin, tensors)
    if not names:
        raise ValueError(
            f"{given} fits no network that `keras-cnns models` lists, as far as its tensors show; "
            "if you know its network, name it: --set model.name=NAME"
        )
    return InitialWeights(path, names[0])
