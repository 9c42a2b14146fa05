"""The result of every reader: a file's tensors, and the name of its architecture, if any."""

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
Tensors = dict[str, Array]


class Architecture(NamedTuple):
    """The name of the architecture of a file's network, such as "resnet50"."""

    name: str
    given_in: str  # "metadata", "config.json" or "file name"


class Checkpoint(NamedTuple):
    """The content of a file of weights."""

    tensors: Tensors  # by their names in the file
    architecture: Architecture | None = None
