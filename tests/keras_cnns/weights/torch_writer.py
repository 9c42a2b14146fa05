"""Write a state dict as torch.save does, without torch."""

import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
from random_weights import Array

_STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage"}
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def _text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def pickled_tuple(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(b"J" + struct.pack("<i", each) for each in values) + b"t"


def state_dict_pickle(tensors: dict[str, Array], *, legacy: bool = False) -> bytes:
    """Return torch's pickle of a dict, whose tensors have the keys 0, 1, 2, ... in their order."""
    parts = [b"\x80\x02", _ORDERED_DICT, b"("]
    for key, (name, tensor) in enumerate(tensors.items()):
        strides = tuple(each // tensor.itemsize for each in tensor.strides)
        parts += [
            _text(name),
            b"ctorch._utils\n_rebuild_tensor_v2\n((",
            _text("storage"),
            f"ctorch\n{_STORAGES[tensor.dtype.name]}\n".encode(),
            _text(str(key)),
            _text("cpu"),
            b"J" + struct.pack("<i", tensor.size),
            b"N" if legacy else b"",
            b"tQJ" + struct.pack("<i", 0),
            pickled_tuple(tensor.shape),
            pickled_tuple(strides),
            b"\x89" + _ORDERED_DICT + b"tR",
        ]
    return b"".join([*parts, b"u."])


def save_torch(tensors: dict[str, Array], path: Path, *, legacy: bool = False) -> None:
    """Write the file; `legacy` is the format before torch 1.6."""
    tensors = {
        name: each if each.flags.c_contiguous else np.ascontiguousarray(each)
        for name, each in tensors.items()
    }
    content = state_dict_pickle(tensors, legacy=legacy)
    if legacy:
        keys = [str(key) for key in range(len(tensors))]
        with path.open("wb") as file:
            for each in (_MAGIC, _VERSION, {"little_endian": True}):
                file.write(pickle.dumps(each, protocol=2))
            file.write(content + pickle.dumps(keys, protocol=2))
            for tensor in tensors.values():
                file.write(struct.pack("<q", tensor.size) + tensor.tobytes())
        return
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{path.stem}/data.pkl", content)
        archive.writestr(f"{path.stem}/byteorder", b"little")
        for key, tensor in enumerate(tensors.values()):
            archive.writestr(f"{path.stem}/data/{key}", tensor.tobytes())
