"""The table of formats, by their names in `formats=` and model.json: a row and a file for each.

Each file writes into a version's directory and loads what it wrote as a function from images to
named outputs, so that one loop compares all formats with Keras.
"""

import dataclasses
import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_cnns_export import litert, onnx_int8, onnx_model, openvino_ir, saved_model
from keras_cnns_export.errors import ExportError, check_names
from keras_cnns_export.source import Source

if TYPE_CHECKING:
    from keras_cnns_export.graph import Predict


@dataclasses.dataclass(frozen=True)
class Format:
    """How one format is written and read back."""

    write: Callable[[Source, Path], dict[str, Any]]  # into the version; returns model.json's entry
    load: Callable[[Path], "Predict"]  # from the version's directory
    files: tuple[str, ...]  # patterns of its files, relative to the version's directory
    engine: str  # what runs it: "onnxruntime", "openvino", "tensorflow" or "litert"
    precision: str = "float32"  # or "bfloat16", "int8"; decides how near to Keras it must come
    requires: tuple[str, ...] = ()  # formats that are written before it, since it reads their files
    packages: tuple[str, ...] = ()  # import names of what does not come with this distribution
    extra: str = ""  # the optional extra that brings them


FORMATS = {
    "saved_model": Format(saved_model.write, saved_model.load, saved_model.FILES, "tensorflow"),
    "onnx": Format(onnx_model.write, onnx_model.load, onnx_model.FILES, "onnxruntime"),
    "onnx_int8": Format(
        onnx_int8.write, onnx_int8.load, onnx_int8.FILES, "onnxruntime", "int8", ("onnx",)
    ),
    "openvino": Format(
        openvino_ir.write,
        openvino_ir.load,
        openvino_ir.FILES,
        "openvino",
        packages=openvino_ir.PACKAGES,
        extra="openvino",
    ),
    "openvino_bfloat16": Format(
        openvino_ir.write_bfloat16,
        openvino_ir.load_bfloat16,
        openvino_ir.FILES,
        "openvino",
        "bfloat16",
        ("openvino",),
        openvino_ir.PACKAGES,
        "openvino",
    ),
    "openvino_int8": Format(
        openvino_ir.write_int8,
        openvino_ir.load_int8,
        openvino_ir.INT8_FILES,
        "openvino",
        "int8",
        ("openvino",),
        openvino_ir.INT8_PACKAGES,
        "openvino",
    ),
    "litert": Format(
        litert.write,
        litert.load,
        litert.FILES,
        "litert",
        packages=litert.PACKAGES,
        extra="litert",
    ),
}


def in_order(names: Iterable[str]) -> list[str]:
    """Return the requested formats, each after those that it requires.

    Raises:
        ExportError: a name is unknown, or the package of an optional format is not installed.
    """
    names = names if isinstance(names, str) else list(names)
    check_names("format", names, FORMATS)
    ordered: list[str] = []

    def add(name: str) -> None:
        row = FORMATS[name]
        missing = [each for each in row.packages if importlib.util.find_spec(each) is None]
        if missing:
            raise ExportError(
                f"the format {name} needs {' and '.join(missing)}: "
                f"pip install 'keras-cnns-export[{row.extra}]'"
            )
        for required in row.requires:
            add(required)
        if name not in ordered:
            ordered.append(name)

    for name in names:
        add(name)
    return ordered


def leave_out(failed: str, names: Iterable[str]) -> str:
    """Return how to export without a format that failed; "" if no requested one is left.

    Args:
        failed: the format's name.
        names: the requested formats.
    """
    others = [name for name in names if failed not in in_order([name])]
    if not others:
        return ""
    return f"; leave it out with --formats {','.join(others)}, or formats={others} in Python"


def size_of(name: str, version: Path) -> int:
    """Return the size in bytes of all files of a format in a version."""
    files = {path for pattern in FORMATS[name].files for path in version.glob(pattern)}
    return sum(path.stat().st_size for path in files)
