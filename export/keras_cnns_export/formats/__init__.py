"""The table of formats, whose keys are the names in `formats=` and model.json.

Each module of this package contains the formats of one engine. Its functions write a format into a
version's directory and load it as a function from images to named outputs, so that one loop can
compare all formats with Keras.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_cnns_export.errors import ExportError, check_names
from keras_cnns_export.formats import litert, onnx, onnx_int8, openvino, saved_model

if TYPE_CHECKING:
    from keras_cnns_export.batches import Array, Predict
    from keras_cnns_export.graph import Source

_TIMED_RUNS, _TIMED_SECONDS = 20, 1.0  # timing ends when the first of these limits is reached


@dataclasses.dataclass(frozen=True)
class Format:
    """How one format is written and loaded."""

    # Writes into the version; returns the entry in model.json.
    write: Callable[[Source, Path], dict[str, Any]]
    load: Callable[[Path], Predict]  # loads from the version's directory
    files: tuple[str, ...]  # glob patterns relative to the version's directory
    # The library that runs the format: "onnxruntime", "openvino", "tensorflow" or "litert".
    engine: str
    precision: str = "float32"  # or "bfloat16", "int8"; determines the permitted difference
    # The formats whose files this format reads; they are written before it.
    requires: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()  # import names of the optional packages that the format needs
    extra: str = ""  # the extra of this distribution that installs these packages


_openvino = functools.partial(Format, engine="openvino", packages=("openvino",), extra="openvino")
_on_openvino = functools.partial(_openvino, requires=("openvino",))

FORMATS: dict[str, Format] = {
    "saved_model": Format(saved_model.write, saved_model.load, saved_model.FILES, "tensorflow"),
    "onnx": Format(onnx.write, onnx.load, onnx.FILES, "onnxruntime"),
    "onnx_int8": Format(
        onnx_int8.write, onnx_int8.load, onnx_int8.FILES, "onnxruntime", "int8", ("onnx",)
    ),
    "openvino": _openvino(openvino.write, openvino.load, openvino.FILES),
    "openvino_bfloat16": _on_openvino(
        openvino.write_bfloat16, openvino.load_bfloat16, openvino.FILES, precision="bfloat16"
    ),
    "openvino_int8": _on_openvino(
        openvino.write_int8,
        openvino.load_int8,
        openvino.INT8_FILES,
        precision="int8",
        packages=("openvino", "nncf"),
    ),
    "litert": Format(
        litert.write,
        litert.load,
        litert.FILES,
        "litert",
        packages=("ai_edge_litert",),
        extra="litert",
    ),
}


def in_order(names: Iterable[str]) -> list[str]:
    """Return the requested formats, each after the formats that it requires.

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
    """Return a hint on how to export without a failed format.

    Return "" if all requested formats need the failed one.

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


def median_milliseconds(predict: Predict, image: Array) -> float:
    """Return the median time of `predict(image)` in ms, after a first call that is not timed.

    Args:
        predict: a loaded format.
        image: one image, uint8 [1, H, W, C].
    """
    predict(image)
    times: list[float] = []
    while len(times) < _TIMED_RUNS and sum(times) < _TIMED_SECONDS:
        begin = time.perf_counter()
        predict(image)
        times.append(time.perf_counter() - begin)
    return round(statistics.median(times) * 1000, 3)
