"""Find the weights from which a training starts, their network and their preprocessing."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from keras_cnns.messages import print_message
from keras_cnns.weights import pretrained
from keras_cnns.weights.assignment import recognize
from keras_cnns.weights.download import (
    DownloadError,
    cache_path,
    disabled_by,
    fetch,
    find_cached,
    is_cached,
    url_of,
)
from keras_cnns.weights.files import read_checkpoint
from keras_cnns.weights.matching import models_that_fit
from keras_cnns.weights.pretrained import Pretrained

_SCRATCH = "none"  # the value of --weights with which a training starts from scratch
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
    # Whether the file exists. It does not if a dry run would have to download it.
    is_present: bool = True


def find_initial_weights(
    given: str, model: str = "", *, download: bool = True
) -> InitialWeights | None:
    """Return the weights that the user gave; None to train from scratch.

    Args:
        given: the path of a file, a name of published weights, "none", or "".
        model: the network that the user named, whose existence the caller checks; if "", the
            network is recognised from the weights.
        download: whether published weights that are in no cache are downloaded; if False, a message
            describes the download.

    Raises:
        ValueError: the file cannot be read, or fits no network.
        DownloadError: published weights cannot be downloaded.
    """
    if given in ("", _SCRATCH):
        return None
    if pretrained.is_name(given):
        return _provide(pretrained.find(given, model or None), given, download=download)
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


def find_published_weights(
    rows: Sequence[Pretrained], *, download: bool = True
) -> tuple[InitialWeights | None, str]:
    """Return the first weights that a cache has or that can be downloaded; and what failed before.

    After one failed download, only the caches are searched, since each attempt without a network
    takes up to 10 seconds.

    Args:
        rows: the weights, the best ones first.
        download: whether weights that are in no cache are downloaded; if False, a message describes
            the download.

    Returns:
        The weights, or None; and a sentence with the URL and the reason of the failure, or "".
    """
    failure = ""
    for row in rows:
        if failure and find_cached(row) is None:
            continue
        try:
            return _provide(row, row.name, download=download), failure
        except DownloadError as error:
            failure = failure or (
                f"{str(error).splitlines()[0]}. To use them, store the file as {cache_path(row)}, "
                "or give another file with --weights."
            )
    return None, failure


def _provide(row: Pretrained, source: str, *, download: bool) -> InitialWeights:
    """Return published weights, after downloading them if that is allowed and necessary."""
    size = f"{row.mebibytes:.0f} MiB" if row.mebibytes else "unknown size"
    what = f"{row.name} ({size}) from {url_of(row)}"
    is_disabled = disabled_by(row) is not None
    if download or is_disabled:
        if not (is_cached(row) or is_disabled):
            print_message(f"downloading {what}")
        fetch(row)
        is_present = True
    elif not (is_present := find_cached(row) is not None):
        print_message(
            f"without --dry-run, the command would download {what}; it measures the network with "
            "random weights instead"
        )
    return InitialWeights(source, row.model, row.mean, row.std, _PUBLISHED, is_present)
