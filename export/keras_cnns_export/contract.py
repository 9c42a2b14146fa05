"""The content of model.json, which describes a version for the programs that serve it.

Its entry `files` has the SHA-256 and the size of every other file, so model.json is written last.
An entry without a value is null; for example, a model without labelled images has no metrics.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_cnns import recipes
from keras_cnns_export.errors import ExportError

if TYPE_CHECKING:
    from keras_cnns.runs.selective import Confidence

_FORMAT = 1  # the version of this contract; a reader refuses versions that it does not know
_MODEL_JSON = "model.json"
LABELS = "labels.txt"
GOLDEN = "golden.npy"

COLOURS = {1: "grey", 3: "RGB"}  # number of channels -> name in model.json
_INTERPOLATIONS = ("bilinear",)


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """A named input or output of the graph."""

    name: str
    dtype: str  # NumPy's name: "uint8", "float32"
    shape: tuple[int | None, ...]  # None: any size


@dataclasses.dataclass(frozen=True)
class Preprocessing(recipes.Preprocessing):
    """How an encoded image becomes uint8 [H, W, C], the graph's input; the graph normalises it."""

    @classmethod
    def for_shape(cls, shape: tuple[int, int, int]) -> "Preprocessing":
        """Return the preprocessing to `shape` (H, W, C) that crops as little as possible."""
        height, width, channels = shape
        crop = height if height == width else (height, width)
        return cls(resize_shorter=max(height, width), crop=crop, channels=channels)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], shape: tuple[int, int, int]) -> "Preprocessing":
        """Return the preprocessing to `shape` (H, W, C) from a dict with the keys of model.json.

        Raises:
            ExportError: a key is unknown or missing, or the images would not have `shape`.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        if set(values) != set(known):
            raise ExportError(
                f"preprocessing has the keys {', '.join(sorted(values)) or '(none)'}; "
                f"it must have {', '.join(known)}"
            )
        crop = values["crop"]
        result = cls(**{**values, "crop": crop if isinstance(crop, int) else tuple(crop)})
        smallest = cls.for_shape(shape)
        square = shape[0] if shape[0] == shape[1] else None
        if result.crop not in (shape[:2], square) or result.channels != shape[2]:
            raise ExportError(
                f"preprocessing gives crop {result.crop} with {result.channels} channels, but the "
                f"model takes images of {shape[0]}x{shape[1]} with {shape[2]}"
            )
        if result.resize_shorter < smallest.resize_shorter:
            raise ExportError(
                f"preprocessing's resize_shorter is {result.resize_shorter}; to cut {result.crop} "
                f"from any image it must be at least {smallest.resize_shorter}"
            )
        if result.interpolation not in _INTERPOLATIONS or result.antialias is not True:
            raise ExportError(
                f"preprocessing's interpolation must be one of {', '.join(_INTERPOLATIONS)}, with "
                f"antialias; got {result.interpolation!r} with antialias={result.antialias}"
            )
        return result


@dataclasses.dataclass(frozen=True)
class Metrics:
    """The accuracy of the Keras model on labelled images."""

    split: str
    samples: int
    accuracy: float  # 0..1, top-1


@dataclasses.dataclass(frozen=True)
class FormatParity:
    """One format compared with Keras over every image and class."""

    largest_difference: float  # largest absolute difference of a probability
    mean_difference: float
    # 0..1, the fraction of images with the most probable class of Keras, or a class tied with it
    top_1_agreement: float
    accuracy: float | None  # 0..1, top-1; None without true labels
    worst_sample: int = 0  # index of the image with the largest difference


@dataclasses.dataclass(frozen=True)
class OwnPrecision(FormatParity):
    """The predictions of a mixed-precision model, compared with those of its float32 copy."""

    policy: str = ""  # Keras' name of the precision: "mixed_bfloat16"


@dataclasses.dataclass(frozen=True)
class Parity:
    """The comparison of every written format with Keras in float32."""

    split: str  # "generated": images that were generated for the comparison
    samples: int
    formats: dict[str, FormatParity]
    own_precision: OwnPrecision | None = None  # None for a model that computes in float32


@dataclasses.dataclass(frozen=True)
class Pixels:
    """The comparison of the pixels that TensorFlow and Pillow get from encoded images."""

    images: int  # number of generated images, which have odd sizes and every supported kind
    within_one_level: float  # 0..1, the fraction of pixels that differ by at most 1 of 255
    largest_difference: int  # levels of 255
    mean_difference: float


@dataclasses.dataclass(frozen=True)
class Golden:
    """The golden samples: images that a server runs at load, with Keras' probabilities in float32.

    The file is a NumPy array [N] without pickled objects, whose rows have the fields `image`, uint8
    [H, W, C], and `probabilities`, float32 [K]. Programs that do not know this key of model.json
    ignore it.
    """

    path: str  # relative to the version's directory
    images: int  # N, from 1 to 8
    # format name -> largest difference from Keras' probabilities on these images, at export
    largest_difference: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Temperature scaling (Guo et al. 2017), folded into the graph: softmax(logits / T)."""

    temperature: float
    expected_calibration_error_before: float  # 0..1, over 15 bins of equal width
    expected_calibration_error_after: float
    split: str
    samples: int


@dataclasses.dataclass(frozen=True)
class Model:
    """The exported model."""

    architecture: str
    parameters: int  # of the exported network: without auxiliary heads, with batch norm statistics


@dataclasses.dataclass(frozen=True)
class ModelJson:
    """The content of model.json, except `format`, `labels` and `files`, which `write` adds."""

    name: str
    created: str  # UTC, ISO 8601
    model: Model
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocessing: Preprocessing
    formats: dict[str, dict[str, Any]]  # path, engine, precision, milliseconds, ...
    metrics: Metrics | None
    parity: Parity
    calibration: Calibration | None = None
    # Thresholds of the probabilities after temperature scaling; None without true classes. Programs
    # that do not know this key ignore it.
    confidence: "Confidence | None" = None
    # How far the pixels that TensorFlow and Pillow decode differ. None without a SavedModel,
    # because only a SavedModel decodes images itself.
    pixels: Pixels | None = None
    golden: Golden | None = None  # None if no golden samples were written

    def write(self, version: Path) -> None:
        """Write `version`/model.json, with the checksums of all files in the directory so far."""
        content = {
            "format": _FORMAT,
            **dataclasses.asdict(self),
            "labels": LABELS,
            "files": {name: _checksum(version / name) for name in sorted(_files(version))},
        }
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        (version / _MODEL_JSON).write_text(text + "\n", encoding="utf-8")


def check_labels(labels: Sequence[str], classes: int) -> tuple[str, ...]:
    """Return the labels if they are one line of text for each of the model's `classes`.

    Raises:
        ExportError: the number of labels is wrong, or a label is empty, has several lines or is
            used for two classes.
    """
    if len(labels) != classes or isinstance(labels, str):
        raise ExportError(f"{len(labels)} labels for a model of {classes} classes: give one each")
    indices: dict[str, int] = {}
    for index, label in enumerate(labels):
        if not isinstance(label, str) or label.splitlines() != [label] or label != label.strip():
            raise ExportError(
                f"label {index} is {label!r}; a label must be one line of text, not empty and "
                "without space around it"
            )
        first = indices.setdefault(label, index)
        if first != index:
            raise ExportError(
                f"labels {first} and {index} are both {label!r}; each class needs its own"
            )
    return tuple(labels)


def write_labels(version: Path, labels: Sequence[str]) -> Path:
    """Write `version`/labels.txt: UTF-8, one label per line in the order of the classes."""
    path = version / LABELS
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{label}\n" for label in labels)
    return path


def _files(version: Path) -> Iterator[str]:
    return (path.relative_to(version).as_posix() for path in version.rglob("*") if path.is_file())


def _checksum(path: Path) -> dict[str, str | int]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": digest, "bytes": path.stat().st_size}
