"""What every reader returns: a file's tensors, and the architecture that it names, if any."""

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
Tensors = dict[str, Array]


class Checkpoint(NamedTuple):
    """The content of a file of weights."""

    tensors: Tensors  # by their names in the file
    architecture: str | None = None  # the name in the file's metadata, such as "resnet50"
