"""The result of every reader: a file's tensors and, if known, the name of its architecture."""

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
Tensors = dict[str, Array]


_FLOATS = ("float16", "float32", "float64")


def as_float32(tensor: Array) -> Array:
    """Convert floating-point numbers to float32 (infinity on overflow); keep all other types."""
    if tensor.dtype.name not in _FLOATS:
        return tensor
    with np.errstate(over="ignore"):
        return tensor.astype("float32", copy=False)  # copy=False, since tied tensors share memory


class Architecture(NamedTuple):
    """The name of the architecture of a file's network, such as "resnet50"."""

    name: str
    given_in: str  # "metadata", "config.json" or "file name"


class Checkpoint(NamedTuple):
    """The content of a file of weights."""

    tensors: Tensors  # name in the file -> tensor
    architecture: Architecture | None = None
