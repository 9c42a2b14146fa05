"""Read a state dict that torch.save has written, without torch.

Published weights, such as torchvision's, are a dict of tensors. The file is an archive with a
pickle of the dict and a record of numbers for each tensor. In the format before torch 1.6, it
consists of several pickles, which precede the numbers. The unpickler knows the few classes and
functions that such a dict needs. It replaces each of them by a constant, or by a function that
returns plain data. A file that names any other class or function needs torch (see `torch_file`).
The unpickler builds immutable objects, which a file cannot change afterwards.
"""

import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from keras_cnns.weights.checkpoint import Array
from keras_cnns.weights.errors import WeightsError

# torch's storage class -> NumPy's type.
_TYPES = {
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "DoubleStorage": "<f8",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "BoolStorage": "?",
}
_MAX_AXES = 32  # maximum number of axes of a tensor
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


class NotPlainError(Exception):
    """The file contains more than tensors and plain data, or is in another format."""


class _Storage(NamedTuple):
    """The numbers of one or more tensors."""

    key: str
    dtype: str  # a value of _TYPES
    size: int  # number of elements


class PlainTensor(NamedTuple):
    """A tensor: a part of a storage."""

    storage: _Storage
    offset: int  # elements
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # elements


class PlainFile(NamedTuple):
    """The content of a file."""

    content: Any  # the unpickled content, with a `PlainTensor` for each tensor
    numbers: dict[str, Array]  # key of a storage -> its numbers

    def array(self, tensor: PlainTensor) -> Array:
        """Return the numbers of a tensor; tensors with the same storage share memory.

        Raises:
            NotPlainError: the tensor is not a contiguous part of its storage.
        """
        storage, offset, shape, strides = tensor
        size = math.prod(shape)
        contiguous = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        axes = zip(shape, strides, contiguous, strict=True)
        if any(length > 1 and stride != expected for length, stride, expected in axes):
            raise NotPlainError
        if not 0 <= offset <= storage.size - size:
            raise NotPlainError
        return self.numbers[storage.key][offset : offset + size].reshape(shape)


def read_plain(path: Path) -> PlainFile:
    """Read a file.

    Raises:
        NotPlainError: the file contains more than tensors and plain data, or is in another format.
        WeightsError: the file is truncated.
    """
    try:
        return _read_archive(path) if zipfile.is_zipfile(path) else _read_legacy(path)
    except (NotPlainError, WeightsError):
        raise
    except Exception as error:  # a damaged pickle can raise any exception
        raise NotPlainError from error


class _Unpickler(pickle._Unpickler):
    """An unpickler that builds only dicts, lists, tuples, numbers, strings and `PlainTensor`s.

    The class derives from the unpickler that is written in Python. The unpickler in C allocates
    memory for any memo index in a file. A few bytes could therefore cost gigabytes.

    Attributes:
        storages: key -> storage of tensors.
    """

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return the constant or function for one of torch's names; nothing is imported."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _RebuildTensor()
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _RebuildParameter()
        if module == "torch" and name in _TYPES:
            return _TYPES[name]
        raise NotPlainError

    def persistent_load(self, pid: Any) -> _Storage:
        """Return the storage that a tensor refers to."""
        kind, dtype, key, _, size, *view = pid
        valid = kind == "storage" and isinstance(dtype, str) and dtype in _TYPES.values()
        valid = valid and isinstance(size, int) and size >= 0
        # Only a text is accepted as key, because the conversion of nested lists could create a text
        # of any length.
        valid = valid and isinstance(key, str) and all(each is None for each in view)
        if not valid:
            raise NotPlainError
        return self.storages.setdefault(key, _Storage(key, dtype, size))


class _RebuildTensor:
    """Replacement of torch's `_rebuild_tensor_v2`; a file cannot change its attributes."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> PlainTensor:
        valid = type(shape) is tuple and type(strides) is tuple and isinstance(storage, _Storage)
        if not valid or not len(shape) == len(strides) <= _MAX_AXES:
            raise NotPlainError
        if any(not isinstance(each, int) or each < 0 for each in (offset, *shape, *strides)):
            raise NotPlainError
        return PlainTensor(storage, offset, shape, strides)


class _RebuildParameter:
    """Replacement of torch's `_rebuild_parameter`."""

    __slots__ = ()

    def __call__(self, tensor: PlainTensor, *_: Any) -> PlainTensor:
        return tensor


def _read_archive(path: Path) -> PlainFile:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        root = next(name for name in names if name.endswith("/data.pkl")).removesuffix("data.pkl")
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise NotPlainError
        with archive.open(f"{root}data.pkl") as file:
            unpickler = _Unpickler(file)
            content = unpickler.load()
        numbers = {}
        for key, (_, dtype, size) in unpickler.storages.items():
            numbers[key] = np.frombuffer(archive.read(f"{root}data/{key}"), dtype)
            if numbers[key].size != size:
                raise NotPlainError
    return PlainFile(content, numbers)


def _read_legacy(path: Path) -> PlainFile:
    total = path.stat().st_size
    with path.open("rb") as file:
        if _Unpickler(file).load() != _LEGACY_MAGIC:
            raise NotPlainError
        _Unpickler(file).load()  # the version
        if not _Unpickler(file).load()["little_endian"]:
            raise NotPlainError
        unpickler = _Unpickler(file)
        content = unpickler.load()
        numbers = {}
        for key in _Unpickler(file).load():
            _, dtype, size = unpickler.storages[key]
            length = size * np.dtype(dtype).itemsize
            header = file.read(8)
            found = file.read(length) if length <= total else b""
            if header != struct.pack("<q", size) or len(found) != length:
                raise WeightsError(f"{path} is truncated: its tensors are incomplete")
            numbers[key] = np.frombuffer(found, dtype)
    return PlainFile(content, numbers)
