"""Read torch's checkpoints without running code in the file.

`plain_torch_file` reads checkpoints that contain only tensors and plain data, such as published
weights. Other checkpoints are read by torch with `weights_only=True`, if torch is installed.
"""

import argparse
import itertools
import logging
import math
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_cnns.weights.checkpoint import Architecture, Array, Checkpoint, as_float32
from keras_cnns.weights.errors import WeightsError
from keras_cnns.weights.readers.archives import check_archive
from keras_cnns.weights.readers.plain_torch_file import PlainTensor, read_plain

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

# In earlier versions, `weights_only=True` does not stop all code in a file (CVE-2025-32434), or a
# file can overwrite memory (CVE-2026-24747).
_MIN_TORCH = (2, 10)
_EMA = ("state_dict_ema", "model_ema")  # keys of averaged weights in timm and in torchvision
_MAX_WRAPPERS = 8  # maximum number of nested dicts around a state dict
_WRAPPERS = (*_EMA, "state_dict", "model_state_dict", "model", "net")
_LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # a pickle of torch's magic number
_LEGACY_PICKLES = 5  # magic number, version, system, objects, keys of the tensors
_NEWER_OPERANDS = {ord(each.code) for each in pickletools.opcodes if each.proto > 2}
# Keys under which a file, or its `args`, contains the architecture's name.
_ARCHITECTURE = ("arch", "architecture", "model")


class PlainData:
    """A placeholder for NumPy numbers and paths, which checkpoints contain besides the weights.

    If a file names a class or function of NumPy or pathlib, the reader constructs this placeholder
    instead of calling it. Arguments and state are dropped, because no weights depend on them.
    """

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


# torch allows a class in a file if its module and name are those of an allowed class. The modules
# have different names in NumPy 1 and NumPy 2, and in pathlib before and since Python 3.13.
_PLAIN_DATA = [
    type(name, (PlainData,), {"__module__": module})
    for modules, names in (
        (("numpy.core.multiarray", "numpy._core.multiarray"), ("scalar",)),
        (("numpy",), ("dtype",)),
        (
            ("pathlib", "pathlib._local"),
            ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"),
        ),
    )
    for module, name in itertools.product(modules, names)
]


def read_torch(path: Path) -> Checkpoint:
    """Read a state dict, alone or inside a training checkpoint.

    If a file has several state dicts, the first one in the order of `_WRAPPERS` is read, so that
    averaged weights (EMA) are preferred. If averaged weights are used, a warning is logged.

    Raises:
        WeightsError: the file is truncated or damaged; it contains more than tensors and plain data
            (if torch is installed, an `argparse.Namespace`, NumPy numbers and paths are allowed
            too); or a tensor is sparse, quantized, nested or without values.
    """
    check_archive(path)
    if (checkpoint := _read_without_torch(path)) is not None:
        return checkpoint
    try:
        import torch
    except ImportError as error:
        raise WeightsError(
            f"{path}: to read it, install torch (pip install torch), or convert it to .safetensors "
            f"on a machine with torch: safetensors.torch.save_file(torch.load('{path.name}', "
            f"weights_only=True), '{path.stem}.safetensors')"
        ) from error
    content = load(path)
    architecture = _architecture_of(content)
    tensors = _unwrap(content, path)
    others = [name for name, each in tensors.items() if not isinstance(each, torch.Tensor)]
    if not tensors or others:
        found = (
            f"; its entry {others[0]!r} is {type(tensors[others[0]]).__name__}" if others else ""
        )
        raise WeightsError(f"{path} is not a dict of tensors by name, as state_dict() gives{found}")
    _check_tensors(tensors, path)
    arrays: dict[tuple[Any, ...], Array] = {}
    for each in tensors.values():
        if _identity(each) not in arrays:
            numbers = each.float() if each.is_floating_point() else each
            arrays[_identity(each)] = numbers.detach().numpy()
    return Checkpoint(
        {str(name): arrays[_identity(each)] for name, each in tensors.items()}, architecture
    )


def _read_without_torch(path: Path) -> Checkpoint | None:
    """Read a file that contains only dense tensors and plain data; return None for others.

    Raises:
        WeightsError: the file is truncated, or `_check_records` rejects its archive.
    """
    try:
        if zipfile.is_zipfile(path):
            _check_records(path)
        file = read_plain(path)
        tensors = _unwrap(file.content, path)
        if not tensors or not all(isinstance(each, PlainTensor) for each in tensors.values()):
            return None
        different = set(tensors.values())
        size = sum(
            math.prod(each.shape) * np.dtype(each.storage.dtype).itemsize for each in different
        )
        if size > path.stat().st_size:  # overlapping tensors would each become an array
            return None
        arrays = {each: as_float32(file.array(each)) for each in different}
    except WeightsError:
        raise
    except Exception as error:  # NotPlainError, or any other error of a damaged file
        if _is_cut(path):
            raise WeightsError(f"{path} is truncated: its tensors are incomplete") from error
        return None
    return Checkpoint(
        {str(name): arrays[each] for name, each in tensors.items()}, _architecture_of(file.content)
    )


def load(path: Path) -> Any:
    """Return a file's content, which may include `args`, usually an `argparse.Namespace`.

    Raises:
        WeightsError: the file cannot be read, or torch is too old to read it safely. torch's own
            messages are not passed on, because they recommend `weights_only=False`, which would
            run the code in the file.
    """
    import torch

    if tuple(map(int, torch.__version__.split(".")[:2])) < _MIN_TORCH:
        raise WeightsError(
            f"{path} can only be read by torch, and a manipulated file can misuse the reader of "
            f"torch {torch.__version__}; install torch {'.'.join(map(str, _MIN_TORCH))} or later"
        )
    try:
        if zipfile.is_zipfile(path):
            _check_records(path)
        with (
            torch.serialization.safe_globals([argparse.Namespace, *_PLAIN_DATA]),
            warnings.catch_warnings(action="ignore"),
        ):
            return torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except Exception as error:  # a damaged pickle can raise any exception
        if "unexpected EOF" in str(error) or _is_cut(path):
            raise WeightsError(f"{path} is truncated: its tensors are incomplete") from error
        if match := re.search(r"GLOBAL (\S+) (was not an allowed|whose module)", str(error)):
            raise WeightsError(
                f"{path} contains more than tensors: {match[1]} is not loaded, because it could "
                "run code; save the model's state_dict() alone"
            ) from error
        if (match := re.search(r"Unsupported operand (\d+)", str(error))) and (
            int(match[1]) in _NEWER_OPERANDS
        ):
            raise WeightsError(
                f"{path} uses a pickle protocol above 2, which torch's safe reader does not "
                "support; save it with torch.save's default"
            ) from error
        raise WeightsError(
            f"{path} is damaged, or is not a checkpoint that torch.save has written"
        ) from error


def _check_records(path: Path) -> None:
    """Check the list of records of torch's zip archive, before torch decompresses a record.

    Raises:
        WeightsError: the archive is a program, or its records claim more bytes than the file has.
    """
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    if any(record.filename.endswith("/constants.pkl") for record in records):
        raise WeightsError(f"{path} is a TorchScript program: save its state_dict() alone")
    if sum(record.file_size for record in records) > path.stat().st_size:
        raise WeightsError(f"{path}: its records claim more bytes than the file has")


def _is_cut(path: Path) -> bool:
    """Return whether a file in the format before torch 1.6 ends inside one of its pickles."""
    with path.open("rb") as file:
        start = file.read(len(_LEGACY_START))
        if not _LEGACY_START.startswith(start):
            return False
        file.seek(0)
        try:
            for _ in range(_LEGACY_PICKLES):
                for _ in pickletools.genops(file):  # lists the instructions without executing them
                    pass
        except ValueError:
            return True
    return False


def _architecture_of(content: Any) -> Architecture | None:
    """Return the architecture that a training checkpoint or its `args` name, if any."""
    if not isinstance(content, dict):
        return None
    arguments = content.get("args")
    if isinstance(arguments, argparse.Namespace):
        arguments = vars(arguments)
    for entries in (content, arguments):
        for key in _ARCHITECTURE:
            if isinstance(entries, dict) and isinstance(entries.get(key), str):
                return Architecture(entries[key], "metadata")
    return None


def _unwrap(content: Any, path: Path) -> dict[Any, Any]:
    """Return the innermost state dict, or an empty dict if there is none."""
    for _ in range(_MAX_WRAPPERS):  # a limit, since a dict in a file can contain itself
        if not isinstance(content, dict):
            break
        wrapped = [key for key in _WRAPPERS if isinstance(content.get(key), dict) and content[key]]
        if not wrapped:
            return content
        if wrapped[0] in _EMA:
            logger.warning("%s: the averaged weights (EMA) in %s are used", path, wrapped[0])
        content = content[wrapped[0]]
    return {}


def _check_tensors(tensors: Mapping[Any, "torch.Tensor"], path: Path) -> None:
    """Check that every tensor is an array whose numbers are in the file.

    A tensor that has several names, because weights are tied, is counted once.

    Raises:
        WeightsError: a tensor is not such an array; the message has the tensor's name.
    """
    import torch

    bytes_left = path.stat().st_size
    counted: set[tuple[Any, ...]] = set()
    for name, tensor in tensors.items():
        if tensor.is_nested:
            raise WeightsError(f"{path}: {name} is a nested tensor; it must be a dense one")
        if tensor.layout != torch.strided:
            raise WeightsError(
                f"{path}: {name} is a sparse tensor ({tensor.layout}); convert it with to_dense() "
                "before saving"
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
        if _identity(tensor) in counted:
            continue
        counted.add(_identity(tensor))
        bytes_left -= tensor.numel() * tensor.element_size()
        if bytes_left < 0:  # possible, since a tensor with stride 0 can be larger than its storage
            raise WeightsError(f"{path}: {name} of {[*tensor.shape]} is larger than the file")


def _identity(tensor: "torch.Tensor") -> tuple[Any, ...]:
    """Return a key that is equal for two tensors if and only if they share their numbers."""
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()
