"""Read torch's checkpoints with `weights_only=True`: tensors are built and no code is run."""

import argparse
import logging
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_cnns.weights.checkpoint import Checkpoint
from keras_cnns.weights.errors import WeightsError
from keras_cnns.weights.readers.archives import check_archive

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

EMA = ("state_dict_ema", "model_ema")  # exponential moving averages: timm's, torchvision's
WRAPPERS = (*EMA, "state_dict", "model_state_dict", "model", "net")
LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # a pickle of torch's magic number
LEGACY_PICKLES = 5  # that number, the version, the system, the objects and the tensors' keys
ARCHITECTURE = ("arch", "architecture", "model")  # entries that name it, in the file or its `args`


def read_torch(path: Path) -> Checkpoint:
    """Read a state dict, alone or inside a training checkpoint; torch must be installed.

    Of the entries in WRAPPERS the first that is there is read, so that averaged weights (EMA) are
    preferred; a logged warning reports that they are used.

    Raises:
        WeightsError: torch is not installed; the file is truncated, damaged, or has more than
            tensors in it; or a tensor is sparse, quantized, nested or without values.
    """
    check_archive(path)
    try:
        import torch
    except ImportError as error:
        raise WeightsError(
            f"{path}: to read it, install torch (pip install torch), or write it as .safetensors "
            f"where torch is: safetensors.torch.save_file(torch.load('{path.name}', "
            f"weights_only=True), '{path.stem}.safetensors')"
        ) from error
    content = load(path)
    architecture = architecture_of(content)
    tensors = unwrap(content, path)
    others = [name for name, each in tensors.items() if not isinstance(each, torch.Tensor)]
    if not tensors or others:
        found = f"; {others[0]!r} in it is {type(tensors[others[0]]).__name__}" if others else ""
        raise WeightsError(f"{path} is not a dict of tensors by name, as state_dict() gives{found}")
    check_tensors(tensors, path)
    return Checkpoint(
        {
            str(name): (each.float() if each.is_floating_point() else each).detach().numpy()
            for name, each in tensors.items()
        },
        architecture,
    )


def load(path: Path) -> Any:
    """Return what torch reads; `argparse.Namespace`, the usual `args`, is plain data too.

    Raises:
        WeightsError: the file cannot be read. torch's own messages are not passed on: they advise
            to load the file with `weights_only=False`, which would run the code in it.
    """
    import torch

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise WeightsError(f"{path} is a TorchScript program: save its state_dict() alone")
    try:
        with (
            torch.serialization.safe_globals([argparse.Namespace]),
            warnings.catch_warnings(action="ignore"),
        ):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises whatever its reader stumbles over
        if "unexpected EOF" in str(error) or is_cut(path):
            raise WeightsError(f"{path} is truncated: its tensors are incomplete") from error
        if match := re.search(r"GLOBAL (\S+) (was not an allowed|whose module)", str(error)):
            raise WeightsError(
                f"{path} has more in it than tensors: {match[1]}, which is not loaded because it "
                "could run code; save the model's state_dict() alone"
            ) from error
        raise WeightsError(
            f"{path} is damaged, or is not a checkpoint that torch.save has written"
        ) from error


def is_cut(path: Path) -> bool:
    """Return whether a file in torch's format before version 1.6 ends inside one of its pickles."""
    with path.open("rb") as file:
        start = file.read(len(LEGACY_START))
        if not LEGACY_START.startswith(start):
            return False
        file.seek(0)
        try:
            for _ in range(LEGACY_PICKLES):
                for _ in pickletools.genops(file):  # lists the instructions and follows none
                    pass
        except ValueError:
            return True
    return False


def architecture_of(content: Any) -> str | None:
    """Return the architecture that a training checkpoint or its `args` name, if any."""
    if not isinstance(content, dict):
        return None
    arguments = content.get("args")
    if isinstance(arguments, argparse.Namespace):
        arguments = vars(arguments)
    for entries in (content, arguments):
        for key in ARCHITECTURE:
            if isinstance(entries, dict) and isinstance(entries.get(key), str):
                return str(entries[key])
    return None


def unwrap(content: Any, path: Path) -> dict[Any, Any]:
    """Return the innermost state dict; an empty dict where there is none."""
    while isinstance(content, dict):
        wrapped = [key for key in WRAPPERS if isinstance(content.get(key), dict) and content[key]]
        if not wrapped:
            return content
        if wrapped[0] in EMA:
            logger.warning("%s: the averaged weights (EMA) in %s are used", path, wrapped[0])
        content = content[wrapped[0]]
    return {}


def check_tensors(tensors: Mapping[Any, "torch.Tensor"], path: Path) -> None:
    """Check that every tensor is an array whose numbers are in the file.

    Raises:
        WeightsError: one is not; the message has its name.
    """
    import torch

    room = path.stat().st_size
    for name, tensor in tensors.items():
        if tensor.is_nested:
            raise WeightsError(f"{path}: {name} is a nested tensor; it must be a dense one")
        if tensor.layout != torch.strided:
            raise WeightsError(
                f"{path}: {name} is a sparse tensor ({tensor.layout}); save it as to_dense()"
            )
        if tensor.is_meta:
            raise WeightsError(
                f"{path}: {name} is a meta tensor: it has a shape and no values; save the model "
                "after its weights have been loaded"
            )
        if tensor.is_quantized:
            raise WeightsError(
                f"{path}: {name} is a quantized tensor ({tensor.dtype}); save the model before "
                "its quantization"
            )
        room -= tensor.numel() * tensor.element_size()
        if room < 0:  # a stride of 0 repeats one number as often as the shape says
            raise WeightsError(f"{path}: {name} of {[*tensor.shape]} is larger than the file")
