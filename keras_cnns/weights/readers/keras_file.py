"""Read Keras' HDF5 files, alone or in a `.keras` archive."""

import io
import lzma
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from keras_cnns.weights.checkpoint import Checkpoint, Tensors
from keras_cnns.weights.errors import WeightsError
from keras_cnns.weights.readers.archives import check_archive

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SUPERBLOCK_BYTES = 96  # size of the structure with which every HDF5 file begins

_DAMAGED_ARCHIVE = (zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError)

# In a file of Keras 3, the variables of a layer have numbers as names. This table gives their usual
# names: number of variables of the layer -> names.
_VARIABLES = {
    1: ("kernel",),
    2: ("kernel", "bias"),
    4: ("gamma", "beta", "moving_mean", "moving_variance"),
}


def read_keras(path: Path) -> Checkpoint:
    """Read the weights in a `.keras` archive; its configuration is ignored.

    Raises:
        WeightsError: the archive is truncated or damaged, or has no readable weights in it.
    """
    check_archive(path)
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo("model.weights.h5")
            if member.file_size > path.stat().st_size:
                raise WeightsError(
                    f"{path} is damaged: its {member.filename} claims more bytes than the file has"
                )
            content = io.BytesIO(archive.read(member))
    except WeightsError:
        raise
    except (*_DAMAGED_ARCHIVE, KeyError, OSError, RuntimeError, ValueError) as error:
        raise WeightsError(f"{path} is not a readable Keras archive: {error}") from error
    return read_hdf5(path, content)


def read_hdf5(path: Path, content: BinaryIO | None = None) -> Checkpoint:
    """Read the `.weights.h5` of Keras 3, or the older `.h5` format with layer names.

    Args:
        path: the file.
        content: the content of an HDF5 file inside an archive; if given, it is read instead of
            `path`.

    Raises:
        WeightsError: the file is truncated or damaged, lies partly in other files, or claims more
            numbers than it has bytes for.
    """
    file_size = bytes_left = path.stat().st_size
    tensors: Tensors = {}

    def visit(name: str, item: Any) -> None:
        nonlocal bytes_left
        if not isinstance(item, h5py.Dataset):
            return
        key = _key_of(path, name, item)
        if key is None:
            return
        if item.external or item.is_virtual:
            raise WeightsError(f"{path}: {name} lies in another file")
        if item.dtype.hasobject:  # texts and lists, whose size is not in `nbytes`
            raise WeightsError(f"{path}: {name} has the type {item.dtype}; weights are numbers")
        bytes_left -= item.nbytes
        # HDF5 decompresses whole chunks, even if only one number in them is read.
        chunk = math.prod(item.chunks or ()) * item.dtype.itemsize
        if bytes_left < 0 or chunk > file_size:
            raise WeightsError(f"{path}: {name} of {[*item.shape]} is larger than the file")
        if key in tensors:
            raise WeightsError(f"{path}: {key} is in it twice")
        tensors[key] = np.asarray(item[()])

    try:
        with h5py.File(content or path, "r") as file:
            # The file of a whole model also has the optimizer's variables. Links are not followed.
            is_group = isinstance(file.get("model_weights", getlink=True), h5py.HardLink)
            (file["model_weights"] if is_group else file).visititems(visit)
    except WeightsError:
        raise
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        if content is None and _is_truncated(path, str(error)):
            raise WeightsError(
                f"{path} is truncated: its header describes a longer file"
            ) from error
        raise WeightsError(f"{path} is not a readable HDF5 file: {error}") from error
    return Checkpoint(tensors)


def _is_truncated(path: Path, message: str) -> bool:
    """Return whether a file that HDF5 cannot open is a truncated HDF5 file.

    Args:
        path: the file.
        message: HDF5's error.
    """
    with path.open("rb") as file:
        start = file.read(_SUPERBLOCK_BYTES)
    if len(start) < _SUPERBLOCK_BYTES:
        return start.startswith(_SIGNATURE) or _SIGNATURE.startswith(start)
    return "truncated file" in message


def _key_of(path: Path, name: str, item: Any) -> str | None:
    """Return a dataset's `layer/variable`; None if it is not a weight of a layer."""
    parts = name.split("/")
    if parts[0] == "optimizer" or "seed_generator" in parts:
        return None
    if parts[-2:-1] != ["vars"]:
        return f"{parts[0]}/{parts[-1].removesuffix(':0')}"
    layer = item.parent.attrs.get("name")
    if not isinstance(layer, str):
        raise WeightsError(
            f"{path} lacks the names of its layers, as files of early releases of Keras 3 do: "
            "load it with model.load_weights, and save it again"
        )
    names = _VARIABLES.get(len(item.parent), ())
    index = int(parts[-1]) if parts[-1].isdecimal() else len(names)
    return f"{layer}/{names[index] if index < len(names) else parts[-1]}"
