"""Read and validate `model.json`, the contract between exporter and server."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from keras_cnns_serve.errors import VersionRefusedError

_FORMAT = 1  # the only supported value of `format`
_MAX_MANIFEST_BYTES = 16 * 2**20
_DTYPES = ("uint8", "float32", "int32", "int64")  # types of tensors that all protocols support
_MAX_SIZE = 2**31 - 1  # maximum size of a dimension
# Maximum height and width in pixels; a larger value in model.json is an error or an attack.
_MAX_SIDE = 8192
# A format is chosen automatically only if its accuracy is at least this fraction of the float32
# accuracy. If the accuracy was not measured, because there were no labels, its top-1 agreement with
# the original model must be at least this number. Exporters use the same value.
_MIN_RATIO = 0.99
_MAX_THRESHOLDS = 100  # maximum number of thresholds; exporters write a dozen
_KINDS = {dict: "an object", list: "a list", str: "a string", int: "an integer", bool: "a boolean"}


@dataclass(frozen=True)
class Tensor:
    """A named input or output of the graph."""

    name: str
    dtype: str  # NumPy's name: "uint8", "float32"
    shape: tuple[int | None, ...]  # None: any size, for the batch dimension


@dataclass(frozen=True)
class Preprocessing:
    """The conversion of a decoded image into the graph's input."""

    resize_shorter: int  # pixels of the shorter side after resizing, which keeps the aspect ratio
    crop: tuple[int, int]  # height and width in pixels, from the centre
    channels: int  # 1: grey, 3: RGB
    interpolation: str = "bilinear"  # always antialiased


@dataclass(frozen=True)
class File:
    """A file of the version, with the checksum and size that it had when it was published."""

    path: str  # POSIX, relative to the version's directory
    sha256: str  # 64 hexadecimal digits, lower case
    size: int  # bytes


@dataclass(frozen=True)
class Format:
    """One of the model files of a version, which an engine runs."""

    name: str
    path: str  # POSIX, relative to the version's directory
    engine: str  # "onnxruntime", "openvino" or "tensorflow"
    precision: str  # "float32", "bfloat16" or "int8"
    milliseconds: float | None = None  # time of one image on the exporting machine
    # Whether a comparison with the original model has shown that the format is accurate.
    proven: bool = False


@dataclass(frozen=True)
class Golden:
    """A file with a few images and the original model's probabilities for them, to check engines.

    The file contains a NumPy array [N] without pickled objects. Its rows have two fields: `image`
    (uint8 [H, W, C]) and `probabilities` (float32 [K]).
    """

    path: str  # POSIX, relative to the version's directory
    # For each format, the largest difference between its probabilities and those of the original
    # model on these images, as measured by the exporter.
    differences: Mapping[str, float]


@dataclass(frozen=True)
class Threshold:
    """A threshold of the highest probability, and its effect on the exporter's labelled images."""

    threshold: float  # 0..1
    # 0..1, the accuracy for which the exporter chose the threshold; None for a fixed threshold,
    # such as 0.9, which was not chosen for an accuracy.
    min_accuracy: float | None
    coverage: float  # 0..1, the fraction of images whose highest probability reaches it
    accuracy: float | None  # 0..1, the accuracy on these images; None if there are no such images


# The engine and the precision of each format.
_KNOWN_FORMATS = {
    "onnx": ("onnxruntime", "float32"),
    "onnx_int8": ("onnxruntime", "int8"),
    "openvino": ("openvino", "float32"),
    "openvino_bfloat16": ("openvino", "bfloat16"),
    "openvino_int8": ("openvino", "int8"),
    "saved_model": ("tensorflow", "float32"),
}


@dataclass(frozen=True)
class Manifest:
    """The content of a version's model.json that the server uses."""

    input: Tensor  # `images`, uint8 [N, H, W, C]
    outputs: tuple[Tensor, ...]  # always with `probabilities` [N, K]
    preprocessing: Preprocessing
    labels: str  # the path of the file with one label on each line
    formats: tuple[Format, ...]  # the supported formats, at least one
    files: dict[str, File]
    golden: Golden | None = None  # None: exported without golden samples
    thresholds: tuple[Threshold, ...] = ()  # empty: exported without labelled images

    @property
    def classes(self) -> int:
        """Return K, the number of labels."""
        return next(o.shape[1] or 0 for o in self.outputs if o.name == "probabilities")


def read_manifest(path: Path) -> Manifest:
    """Read and check a `model.json`.

    Raises:
        VersionRefusedError: the file is missing, is not JSON, or has missing or wrong values.
    """
    try:
        if path.exists() and not path.is_file():  # checked, since opening a pipe would wait forever
            raise VersionRefusedError("model.json is not a file")
        with path.open("rb") as file:
            content = file.read(_MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise VersionRefusedError(f"model.json cannot be read: {error.strerror}") from error
    if len(content) > _MAX_MANIFEST_BYTES:
        raise VersionRefusedError(f"model.json is larger than {_MAX_MANIFEST_BYTES:,} bytes")
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise VersionRefusedError(f"model.json is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise VersionRefusedError("model.json is not a JSON object")
    return _parse(document)


def _wrong(problem: str) -> VersionRefusedError:
    return VersionRefusedError(f"model.json: {problem}")


def _parse(document: dict[str, Any]) -> Manifest:
    number = _get(document, "format", int)
    if number != _FORMAT:
        raise _wrong(f"format is {number}; this server supports {_FORMAT}")
    files = {
        name: File(
            _inside(name, "files"),
            _sha256(_get(entry, f"files[{name!r}].sha256", str)),
            _at_least(0, _get(entry, f"files[{name!r}].bytes", int), f"files[{name!r}].bytes"),
        )
        for name, entry in _objects(_get(document, "files", dict), "files").items()
    }
    manifest = Manifest(
        input=_input(document),
        outputs=_tensors(document, "outputs"),
        preprocessing=_preprocessing(_get(document, "preprocessing", dict)),
        labels=_inside(_get(document, "labels", str), "labels"),
        formats=_formats(document),
        files=files,
        golden=_golden(document),
        thresholds=_thresholds(document),
    )
    used = {"labels": manifest.labels}
    if manifest.golden is not None:
        used["golden.path"] = manifest.golden.path
    for each in manifest.formats:
        used[f"formats.{each.name}.path"] = each.path
        if each.engine == "openvino":  # the weights are beside the XML file
            used[f"formats.{each.name}"] = str(PurePosixPath(each.path).with_suffix(".bin"))
    for key, path in used.items():
        if path not in files:
            raise _wrong(f"{key} is {path!r}, which is not listed in files")
    _check_agreement(manifest)
    return manifest


def _get(where: dict[str, Any], path: str, kind: type) -> Any:
    """Return the value of a key, which must have exactly the type `kind`.

    Args:
        where: the object that contains the key.
        path: the full path of the key, for errors, such as "a.b.key"; its last part is the key.
        kind: the Python type of the value.

    Raises:
        VersionRefusedError: the key is missing, or its value has another type.
    """
    key = path.rsplit(".", 1)[-1]
    if key not in where:
        raise _wrong(f"{path} is missing")
    # isinstance would accept True as an integer.
    if type(where[key]) is not kind:
        raise _wrong(f"{path} must be {_KINDS[kind]}, not {where[key]!r:.80}")
    return where[key]


def _objects(where: dict[str, Any], path: str) -> dict[str, dict[str, Any]]:
    for key, value in where.items():
        if not isinstance(value, dict):
            raise _wrong(f"{path}[{key!r}] must be an object")
    return where


def _at_least(low: int, value: int, path: str, high: int | None = None) -> int:
    if value < low or (high is not None and value > high):
        limits = f"at least {low}" if high is None else f"from {low} to {high}"
        raise _wrong(f"{path} must be {limits}, not {value}")
    return value


def _inside(path: str, key: str) -> str:
    """Return the path if it is a normalized, relative POSIX path inside the directory."""
    parts = PurePosixPath(path).parts
    # Backslashes and colons are separators on some systems, and parts of names on others.
    if not parts or path.startswith("/") or ".." in parts or any(c in path for c in "\\:\0"):
        raise _wrong(f"{key} has the path {path!r}, which is not inside the version's directory")
    if path != "/".join(parts):
        raise _wrong(f"{key} has the path {path!r}; write {'/'.join(parts)}")
    return path


def _sha256(text: str) -> str:
    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise _wrong(f"{text[:80]!r} is not a SHA-256 in lower-case hexadecimal")
    return text


def _formats(document: dict[str, Any]) -> tuple[Format, ...]:
    """Return the supported formats; formats for other programs are ignored."""
    formats = _get(document, "formats", dict)
    parity = _parity_of_formats(document)
    accuracy = _float32_accuracy(document, parity)
    found = []
    for name, (engine, precision) in _KNOWN_FORMATS.items():
        entry = formats.get(name)
        if not isinstance(entry, dict):
            continue
        key = f"formats.{name}"
        milliseconds = entry.get("milliseconds")
        if milliseconds is not None and (
            type(milliseconds) not in (int, float) or not 0 < milliseconds < math.inf
        ):
            raise _wrong(f"{key}.milliseconds must be positive, not {milliseconds!r:.80}")
        for each, expected in {"engine": engine, "precision": precision}.items():
            if entry.get(each, expected) != expected:
                raise _wrong(f"{key}.{each} must be {expected!r}, not {entry[each]!r:.80}")
        path = _inside(_get(entry, f"{key}.path", str), f"{key}.path")
        proven = _is_proven(parity.get(name, {}), accuracy)
        found.append(Format(name, path, engine, precision, milliseconds, proven))
    if not found:
        raise _wrong(f"formats must have one of {', '.join(_KNOWN_FORMATS)}")
    return tuple(found)


def _golden(document: dict[str, Any]) -> Golden | None:
    """Return the entry of the golden samples; None if the exporter wrote none."""
    entry = document.get("golden")
    if entry is None:
        return None
    if not isinstance(entry, dict):
        raise _wrong(f"golden must be an object, not {entry!r:.80}")
    key = "golden.largest_difference"
    differences = _get(entry, key, dict)
    for name, value in differences.items():
        if type(value) not in (int, float) or not 0 <= value <= 1:
            raise _wrong(f"{key}[{name!r}] must be from 0 to 1, not {value!r:.80}")
    return Golden(_inside(_get(entry, "golden.path", str), "golden.path"), differences)


def _thresholds(document: dict[str, Any]) -> tuple[Threshold, ...]:
    """Return the thresholds of the probability; empty if the exporter wrote none."""
    confidence = document.get("confidence")
    if confidence is None:
        return ()
    if not isinstance(confidence, dict):
        raise _wrong(f"confidence must be an object, not {confidence!r:.80}")
    entries = _get(confidence, "confidence.thresholds", list)
    if len(entries) > _MAX_THRESHOLDS:
        raise _wrong(
            f"confidence.thresholds has {len(entries):,} entries; the maximum is {_MAX_THRESHOLDS}"
        )
    found: list[Threshold] = []
    for index, entry in enumerate(entries):
        here = f"confidence.thresholds[{index}]"
        if not isinstance(entry, dict):
            raise _wrong(f"{here} must be an object, not {entry!r:.80}")
        values = {
            name: _fraction(entry, f"{here}.{name}", optional=name in ("min_accuracy", "accuracy"))
            for name in ("threshold", "min_accuracy", "coverage", "accuracy")
        }
        target = values["min_accuracy"]
        if target is not None and target in (each.min_accuracy for each in found):
            raise _wrong(f"{here}.min_accuracy is {target!r}, as in an earlier entry")
        found.append(Threshold(**values))
    return tuple(found)


def _fraction(where: dict[str, Any], path: str, *, optional: bool) -> Any:
    """Return the number from 0 to 1 at `path`; None for null if `optional`."""
    key = path.rsplit(".", 1)[-1]
    if key not in where:
        raise _wrong(f"{path} is missing")
    value = where[key]
    if value is None and optional:
        return None
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise _wrong(f"{path} must be a number from 0 to 1, not {value!r:.80}")
    return float(value)


def _parity_of_formats(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return, for each format, the metrics of its comparison with the original model."""
    parity = document.get("parity")
    formats = parity.get("formats") if isinstance(parity, dict) else None
    if not isinstance(formats, dict):
        return {}
    return {name: metrics for name, metrics in formats.items() if isinstance(metrics, dict)}


def _float32_accuracy(document: dict[str, Any], parity: dict[str, dict[str, Any]]) -> float | None:
    """Return the accuracy of a float32 format, or else of the original model.

    The accuracy of the original model is used only if it was measured on the images of the
    comparison.
    """
    for name, (_, precision) in _KNOWN_FORMATS.items():
        accuracy = parity.get(name, {}).get("accuracy")
        if precision == "float32" and isinstance(accuracy, int | float):
            return accuracy
    metrics = document.get("metrics")
    if (
        parity
        and isinstance(metrics, dict)
        and metrics.get("split") == document["parity"].get("split")
    ):
        accuracy = metrics.get("accuracy")
        return accuracy if isinstance(accuracy, int | float) else None
    return None


def _is_proven(metrics: dict[str, Any], float32_accuracy: float | None) -> bool:
    """Return whether the comparison with the original shows that a format is accurate."""
    accuracy, agreement = metrics.get("accuracy"), metrics.get("top_1_agreement")
    if isinstance(accuracy, int | float) and float32_accuracy:
        return accuracy >= _MIN_RATIO * float32_accuracy
    return isinstance(agreement, int | float) and agreement >= _MIN_RATIO


def _tensors(document: dict[str, Any], key: str) -> tuple[Tensor, ...]:
    tensors: list[Tensor] = []
    for index, entry in enumerate(_get(document, key, list)):
        here = f"{key}[{index}]"
        if not isinstance(entry, dict):
            raise _wrong(f"{here} must be an object")
        shape = _get(entry, f"{here}.shape", list)
        for dimension, size in enumerate(shape):
            if size is not None and (type(size) is not int or not 1 <= size <= _MAX_SIZE):
                raise _wrong(f"{here}.shape[{dimension}] must be null or a positive integer")
        if not shape or shape[0] is not None:
            raise _wrong(f"{here}.shape must begin with null, the batch size")
        name = _get(entry, f"{here}.name", str)
        if name in (tensor.name for tensor in tensors):
            raise _wrong(f"{key} has {name!r} twice")
        dtype = _get(entry, f"{here}.dtype", str)
        if dtype not in _DTYPES:
            raise _wrong(f"{here}.dtype must be one of {', '.join(_DTYPES)}, not {dtype!r:.80}")
        tensors.append(Tensor(name, dtype, tuple(shape)))
    return tuple(tensors)


def _input(document: dict[str, Any]) -> Tensor:
    inputs = _tensors(document, "inputs")
    if len(inputs) != 1 or inputs[0].name != "images" or inputs[0].dtype != "uint8":
        raise _wrong("inputs must be a single uint8 tensor with the name images")
    return inputs[0]


def _preprocessing(entry: dict[str, Any]) -> Preprocessing:
    side = _get(entry, "preprocessing.resize_shorter", int)
    channels = _get(entry, "preprocessing.channels", int)
    if channels not in (1, 3):
        raise _wrong(f"preprocessing.channels must be 1 or 3, not {channels}")
    interpolation = _get(entry, "preprocessing.interpolation", str)
    if interpolation != "bilinear" or _get(entry, "preprocessing.antialias", bool) is not True:
        raise _wrong("preprocessing must be bilinear, with antialias true")
    crop = entry.get("crop")
    sides: list[Any] = crop if isinstance(crop, list) else [crop, crop]
    if len(sides) != 2 or not all(type(size) is int for size in sides):
        raise _wrong("preprocessing.crop must be a size or [height, width]")
    _at_least(1, side, "preprocessing.resize_shorter", _MAX_SIDE)
    for size in sides:
        # A larger crop would exceed the edges of a square image.
        _at_least(1, size, "preprocessing.crop", side)
    return Preprocessing(side, (sides[0], sides[1]), channels, interpolation)


def _check_agreement(manifest: Manifest) -> None:
    """Check that the tensors agree with the preprocessing."""
    pixels = (None, *manifest.preprocessing.crop, manifest.preprocessing.channels)
    if manifest.input.shape != pixels:
        raise _wrong(
            f"images has shape {list(manifest.input.shape)}, but preprocessing gives {list(pixels)}"
        )
    for output in manifest.outputs:
        if output.name == "probabilities" and len(output.shape) == 2 and output.shape[1]:
            return
    raise _wrong("outputs must have probabilities, of shape [null, classes]")
