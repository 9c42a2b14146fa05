"""Files of weights, read as arrays by name: safetensors, torch's, HDF5 and Keras' archives.

A file may come from anywhere: none is executed, none makes this process open another file, and
none is allowed more memory for its tensors than it has bytes on disk. Of a stranger take
`.safetensors`: its library was written for hostile files, while HDF5's can be made to run on
without end by a damaged `.h5` or `.keras`.
"""

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from keras_cnns.weights.errors import WeightsError

Array = np.ndarray[Any, Any]
Tensors = dict[str, Array]

FLOATS = ("float16", "float32", "float64")
SAFETENSORS = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "U8": "u1",
    "BOOL": "?",
}
# Keras 3 numbers a layer's variables; how many there are says which.
VARIABLES = {
    1: ("kernel",),
    2: ("kernel", "bias"),
    4: ("gamma", "beta", "moving_mean", "moving_variance"),
}


def read(file: Path | str) -> Tensors:
    """Read a file's tensors: floating numbers as float32, others as they are.

    The names are the file's; in Keras' files a name is `layer/variable`, whatever the version.

    Args:
        file: `.safetensors`; `.pth` or `.pt`, for which torch must be installed; `.h5` or
            `.weights.h5`; `.keras`.

    Raises:
        WeightsError: the file is not there, not of a known kind, or broken.
    """
    path = Path(file)
    if path.suffix not in READERS:
        raise WeightsError(f"{path}: no file of weights ends so; there are {', '.join(READERS)}")
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file")
    tensors = {name: as_float32(tensor) for name, tensor in READERS[path.suffix](path).items()}
    if not tensors:
        raise WeightsError(f"{path}: there are no tensors in it")
    return tensors


def as_float32(tensor: Array) -> Array:
    """Return floating numbers as float32, and others as they are."""
    return tensor.astype("float32") if tensor.dtype.name in FLOATS else tensor


def read_safetensors(path: Path) -> Tensors:
    """Read a `.safetensors` file; its library checks every offset and shape before it is used."""
    import safetensors

    try:
        # From memory, not by a map of the file: a file that shrinks meanwhile ends the process.
        content = safetensors.deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path}: not a safetensors file that can be read: {error}") from error
    tensors: Tensors = {}
    for name, tensor in content:
        if tensor["dtype"] not in SAFETENSORS:
            raise WeightsError(f"{path}: {name} is of {tensor['dtype']}, no number of a net's")
        numbers = np.frombuffer(tensor["data"], SAFETENSORS[tensor["dtype"]])
        if tensor["dtype"] == "BF16":  # NumPy has no such number: it is the upper half of a float32
            numbers = (numbers.astype("<u4") << 16).view("<f4")
        tensors[name] = numbers.reshape(tensor["shape"])
    return tensors


def read_torch(path: Path) -> Tensors:
    """Read a checkpoint of torch's, by its reader that builds tensors and nothing else."""
    try:
        import torch
    except ImportError as error:
        raise WeightsError(
            f"{path}: to read it, install torch (pip install torch), or write it as .safetensors "
            f"where torch is: safetensors.torch.save_file(torch.load('{path.name}', "
            f"weights_only=True), '{path.stem}.safetensors')"
        ) from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise WeightsError(f"{path}: torch finds more in it than tensors: {reason}") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    tensors = content if isinstance(content, dict) else {}
    others = [name for name, each in tensors.items() if not isinstance(each, torch.Tensor)]
    if not tensors or others:
        raise WeightsError(f"{path}: not a dict of tensors by name, as state_dict() gives")
    return {
        str(name): (each.float() if each.is_floating_point() else each).numpy()
        for name, each in tensors.items()
    }


def read_keras(path: Path) -> Tensors:
    """Read a `.keras` archive; its configuration is left alone."""
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo("model.weights.h5")
            if member.file_size > path.stat().st_size:
                raise WeightsError(f"{path}: {member.filename} in it claims more bytes than it has")
            content = io.BytesIO(archive.read(member))
    except (zipfile.BadZipFile, KeyError, OSError, RuntimeError) as error:
        raise WeightsError(f"{path}: not an archive of Keras': {error}") from error
    return read_hdf5(path, content)


def read_hdf5(path: Path, content: BinaryIO | None = None) -> Tensors:
    """Read HDF5 as Keras writes it: `.weights.h5` of Keras 3, or the older `.h5` by layer names.

    Args:
        path: of the file.
        content: what to read in its place.
    """
    room = path.stat().st_size
    tensors: Tensors = {}

    def visit(name: str, item: Any) -> None:
        nonlocal room
        if not isinstance(item, h5py.Dataset):
            return
        key = key_of(path, name, item)
        if key is None:
            return
        if item.external or item.is_virtual:
            raise WeightsError(f"{path}: {name} lies in another file")
        room -= item.nbytes
        if room < 0:
            raise WeightsError(f"{path}: {name} of {item.shape} is larger than the file")
        if key in tensors:
            raise WeightsError(f"{path}: {key} is in it twice")
        tensors[key] = np.asarray(item[()])

    try:
        with h5py.File(content or path, "r") as file:
            # Whole models have the weights beside the optimizer's. Links are not followed.
            file.get("model_weights", file).visititems(visit)
    except WeightsError:
        raise
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"{path}: not an HDF5 file that can be read: {error}") from error
    return tensors


def key_of(path: Path, name: str, item: Any) -> str | None:
    """Return `layer/variable` for a place in the file; None for what is no layer's weight."""
    parts = name.split("/")
    if parts[0] == "optimizer" or "seed_generator" in parts:
        return None
    if parts[-2:-1] != ["vars"]:
        return f"{parts[0]}/{parts[-1].removesuffix(':0')}"
    layer = item.parent.attrs.get("name")
    if not isinstance(layer, str):
        raise WeightsError(
            f"{path}: it lacks its layers' names, as files of older releases of Keras 3 do: load "
            "it with model.load_weights, and save it again"
        )
    names = VARIABLES.get(len(item.parent), ())
    index = int(parts[-1]) if parts[-1].isdecimal() else len(names)
    return f"{layer}/{names[index] if index < len(names) else parts[-1]}"


READERS: dict[str, Callable[[Path], Tensors]] = {
    ".safetensors": read_safetensors,
    ".pth": read_torch,
    ".pt": read_torch,
    ".h5": read_hdf5,
    ".hdf5": read_hdf5,
    ".keras": read_keras,
}
