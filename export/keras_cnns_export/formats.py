"""The formats, by the name that `formats=` and model.json give them: a new one is a row and a file.

Each file writes into a version's directory and loads from it what it wrote, as a function from
images to named outputs, so that one loop compares them all with Keras.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_cnns_export import onnx_model, saved_model

if TYPE_CHECKING:
    from keras_cnns_export.graph import Predict


@dataclasses.dataclass(frozen=True)
class Format:
    """How one format is written and read back."""

    write: Callable[..., dict[str, Any]]  # (graph, version, labels=, preprocessing=, opset=)
    load: Callable[[Path], "Predict"]  # the version's directory
    files: tuple[str, ...]  # patterns of its files, relative to the version's directory


FORMATS = {
    "saved_model": Format(saved_model.write, saved_model.load, saved_model.FILES),
    "onnx": Format(onnx_model.write, onnx_model.load, onnx_model.FILES),
}
