"""The content of model.json, which describes a version for the programs that serve it.

Its entry `files` has the SHA-256 and the size of every other file, so model.json is written last.
An entry without a value is null. For example, `metrics` is null if the accuracy is unknown.
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
    """The steps from an encoded image to the graph's input, uint8 [H, W, C].

    The normalisation is not one of these steps, because the graph includes it.
    """

    @classmethod
    def for_shape(cls, shape: tuple[int, int, int]) -> "Preprocessing":
        """Return the preprocessing that gives images of `shape` (H, W, C) and crops the least."""
        height, width, channels = shape
        crop = height if height == width else (height, width)
        return cls(resize_shorter=max(height, width), crop=crop, channels=channels)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], shape: tuple[int, int, int]) -> "Preprocessing":
        """Create the preprocessing from a dict with the keys that model.json has.

        Args:
            values: key -> value.
            shape: the (H, W, C) of the model's images.

        Raises:
            ExportError: a key is unknown or missing, a value is not supported, or the images would
                not have `shape`.
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
                f"preprocessing has the crop {result.crop} with {result.channels} channels, but "
                f"the model takes images of {shape[0]}x{shape[1]} with {shape[2]} channels"
            )
        if result.resize_shorter < smallest.resize_shorter:
            raise ExportError(
                f"preprocessing's resize_shorter is {result.resize_shorter}; it must be at least "
                f"{smallest.resize_shorter}, so that every resized image contains the crop of "
                f"{result.crop}"
            )
        if result.interpolation not in _INTERPOLATIONS or result.antialias is not True:
            raise ExportError(
                f"preprocessing has the interpolation {result.interpolation!r} with "
                f"antialias={result.antialias}; it must be {' or '.join(_INTERPOLATIONS)} with "
                "antialias=True"
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
    """The differences between one format and Keras, over all images and classes."""

    largest_difference: float  # largest absolute difference of a probability
    mean_difference: float
    # 0..1, the fraction of the images for which the format predicts the class that Keras predicts,
    # or a class to which Keras gives the same probability to within 1e-4
    top_1_agreement: float
    accuracy: float | None  # 0..1, top-1; None without true labels
    worst_sample: int = 0  # index of the image with the largest difference


@dataclasses.dataclass(frozen=True)
class OwnPrecision(FormatParity):
    """The predictions of a mixed-precision model, compared with those of its float32 copy."""

    policy: str = ""  # the name of the dtype policy in Keras, for example "mixed_bfloat16"


@dataclasses.dataclass(frozen=True)
class Parity:
    """The comparison of every written format with Keras in float32."""

    split: str  # the split of the images; "generated" if they were generated for the comparison
    samples: int
    formats: dict[str, FormatParity]
    own_precision: OwnPrecision | None = None  # None for a model that computes in float32


@dataclasses.dataclass(frozen=True)
class Pixels:
    """The comparison of the pixels that TensorFlow and Pillow get from encoded images."""

    # The number of generated images. They are of every supported kind, and their heights and widths
    # are odd numbers.
    images: int
    within_one_level: float  # 0..1, the fraction of pixels that differ by at most 1 of 255 levels
    largest_difference: int  # in levels, 0..255
    mean_difference: float


@dataclasses.dataclass(frozen=True)
class Golden:
    """The golden samples: images for a server's check, with Keras' probabilities in float32.

    The file is a NumPy array [N] without pickled objects. Each row has the fields `image`, uint8
    [H, W, C], and `probabilities`, float32 [K]. Programs that do not know the key `golden` of
    model.json ignore it.
    """

    path: str  # relative to the version's directory
    images: int  # N, from 1 to 8
    # Format name -> the largest difference from Keras' probabilities on these images, measured at
    # export.
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
    # The number of parameters of the exported network, including the statistics of batch
    # normalization. Auxiliary heads count only if their outputs are exported.
    parameters: int


@dataclasses.dataclass(frozen=True)
class ModelJson:
    """The content of model.json, except `format`, `labels` and `files`, which `write` adds."""

    name: str
    created: str  # UTC, ISO 8601
    model: Model
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocessing: Preprocessing
    formats: dict[str, dict[str, Any]]  # format name -> path, engine, precision, ...
    metrics: Metrics | None
    parity: Parity
    calibration: Calibration | None = None
    # Thresholds for an image's highest probability. They are chosen from the probabilities that
    # Keras computes in float32, after the temperature if there is one. None if the images have no
    # true classes. Programs that do not know this key ignore it.
    confidence: "Confidence | None" = None
    # The differences between the pixels that TensorFlow and Pillow decode. None without a
    # SavedModel, because only a SavedModel decodes images itself.
    pixels: Pixels | None = None
    golden: Golden | None = None  # None if no golden samples were written

    def write(self, version: Path) -> None:
        """Write `version`/model.json, with the checksums of all other files in the directory."""
        content = {
            "format": _FORMAT,
            **dataclasses.asdict(self),
            "labels": LABELS,
            "files": {name: _checksum(version / name) for name in sorted(_files(version))},
        }
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        (version / _MODEL_JSON).write_text(text + "\n", encoding="utf-8")


def check_labels(labels: Sequence[str], classes: int) -> tuple[str, ...]:
    """Check the labels, and return them as a tuple.

    Args:
        labels: one line of text for each class.
        classes: the number of classes.

    Raises:
        ExportError: the number of labels is wrong, or a label is empty, begins or ends with white
            space, has several lines or is used for two classes.
    """
    if isinstance(labels, str):
        raise ExportError(f"labels must be a list of names, not the string {labels!r}")
    if len(labels) != classes:
        raise ExportError(
            f"{len(labels)} labels for a model of {classes} classes; give one label for each class"
        )
    indices: dict[str, int] = {}
    for index, label in enumerate(labels):
        if not isinstance(label, str) or label.splitlines() != [label] or label != label.strip():
            raise ExportError(
                f"label {index} is {label!r}; a label must be one line of text that is not empty "
                "and does not begin or end with white space"
            )
        first = indices.setdefault(label, index)
        if first != index:
            raise ExportError(
                f"labels {first} and {index} are both {label!r}; each class needs a different label"
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
