"""Published weights by name: `build("resnet50", weights="torchvision/resnet50.IMAGENET1K_V2")`.

`pretrained.csv` has a row for each checkpoint that our architectures reproduce exactly. The name of
a row consists of the publisher's name and the name that the publisher gives to the weights:
torchvision's `Weights` enum, timm's model and tag, or keras.applications' function in lower case.
`make test-parity` compares the rows with the packages of all three publishers.

"imagenet" denotes the row that is marked as the default of a model. This row is torchvision's own
`DEFAULT` if torchvision publishes the model, and otherwise the only row of timm or
keras.applications.

A row describes the pixels on which the weights were trained, as RGB levels from 0 to 255. For two
models, these levels differ from the constants in the publisher's code. torchvision's GoogLeNet
first maps its normalised input to the range from -1 to 1 (its `transform_input`).
keras.applications' ResNet v1 was trained on BGR images; when its weights are loaded, the channels
of the first convolution's kernel are reversed, so that the model takes RGB images.
"""

import csv
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from keras_cnns.suggestions import did_you_mean

_TABLE = "pretrained.csv"
_LIST = "keras-cnns weights list"
DEFAULT = "imagenet"  # the name of every model's default row
_PUBLISHERS = ("torchvision", "timm", "keras")


class Checksum(NamedTuple):
    """The published evidence that a file is the right file."""

    # "sha256-prefix": the first hexadecimal digits of the SHA-256, as in torchvision's file names.
    # "md5": as in the source of keras.applications.
    # "hub-revision": the revision of a repository on the Hugging Face hub, such as `main`. timm
    # contains no checksum of the file; the hub's server sends the file's SHA-256 in a header.
    kind: str
    value: str


class Pretrained(NamedTuple):
    """A published checkpoint."""

    name: str  # "torchvision/resnet50.IMAGENET1K_V2"
    model: str  # the key of MODELS for the model that reproduces the checkpoint
    default: bool  # whether "imagenet" denotes this row for its model
    url: str
    checksum: Checksum
    mebibytes: float | None  # published size of the file
    top_1: float | None  # published accuracy on ImageNet's validation images in per cent
    licence: str  # the published licence of the weights; "" if none is published
    mean: tuple[float, ...]  # subtracted from RGB, in levels from 0 to 255
    std: tuple[float, ...]  # RGB minus the mean is divided by it; in levels from 0 to 255
    resize: int | None  # pixels of the shorter side in the published evaluation, if published
    crop: int  # pixels of the square centre crop in the published evaluation
    interpolation: str  # interpolation of the resizing; "" if none is published
    bgr: bool = False  # whether the channels of the file's first convolution are B, G, R

    @property
    def publisher(self) -> str:
        """The part of the name before the slash."""
        return self.name.partition("/")[0]

    @property
    def file_name(self) -> str:
        """The name of the file in the cache."""
        if self.publisher == "timm":  # on the hub, every file has the name model.safetensors
            return f"{self.name.partition('/')[2]}.safetensors"
        return self.url.rpartition("/")[2]

    def preprocessing(self) -> dict[str, Any]:
        """Return the published preprocessing as model.json describes it, for an export.

        Images are always resized bilinearly with antialiasing, whatever `interpolation` is.
        Without a published `resize`, the shorter side is resized to the size of the crop.
        """
        return {
            "resize_shorter": self.resize or self.crop,
            "crop": self.crop,
            "interpolation": "bilinear",
            "antialias": True,
            "channels": len(self.mean),
        }


def _read_table() -> dict[str, Pretrained]:
    text = (resources.files("keras_cnns.weights") / _TABLE).read_text("utf-8")
    rows = {}
    for row in csv.DictReader(text.splitlines()):
        values: dict[str, Any] = dict(row)
        for key in ("default", "bgr"):
            values[key] = row[key] == "yes"
        for key in ("mebibytes", "top_1"):
            values[key] = float(row[key]) if row[key] else None
        for key in ("mean", "std"):
            values[key] = tuple(map(float, row[key].split()))
        values["checksum"] = Checksum(*row["checksum"].split(":"))
        values["resize"] = int(row["resize"]) if row["resize"] else None
        values["crop"] = int(row["crop"])
        rows[row["name"]] = Pretrained(**values)
    return rows


PRETRAINED: dict[str, Pretrained] = _read_table()


def is_name(weights: Path | str) -> bool:
    """Return whether a value of `weights` is a name, not a file.

    A text that is not in the table also counts as a name if it begins with a publisher's name and a
    slash, such as `timm/`, and no file has this path.
    """
    if not isinstance(weights, str):
        return False
    if weights in PRETRAINED or weights == DEFAULT:
        return True
    is_like_one = weights.partition("/")[0] in _PUBLISHERS and "/" in weights
    return is_like_one and not Path(weights).exists()


def default_for(model: str) -> Pretrained | None:
    """Return the row that "imagenet" denotes for a model, if any."""
    return next((row for row in rows_for(model) if row.default), None)


def rows_for(model: str) -> list[Pretrained]:
    """Return the rows of a model, a key of MODELS."""
    return [row for row in PRETRAINED.values() if row.model == model]


def find(name: str, model: str | None = None) -> Pretrained:
    """Return a row of the table by its name.

    Args:
        name: a name in the table; or "imagenet" together with a model.
        model: the key of MODELS for the model that will load the weights.

    Raises:
        ValueError: there is no such row, or the row belongs to another model.
    """
    rows = list(PRETRAINED.values()) if model is None else rows_for(model)
    if model is not None and not rows:
        raise ValueError(f"there are no published weights of {model}; `{_LIST}` lists all weights")
    hint = f"`{_LIST}{f' {model}' if model else ''}` lists all weights"
    if name == DEFAULT:
        if model is None:
            raise ValueError(f"{DEFAULT!r} names different weights for each model; {hint}")
        return next(row for row in rows if row.default)
    if name in PRETRAINED:
        row = PRETRAINED[name]
        if row in rows:
            return row
        raise ValueError(f"{name} are weights of {row.model}, not of {model}; {hint}")
    names = [row.name for row in rows]
    similar = next((f"; did you mean {each!r}?" for each in names if each.startswith(name)), "")
    raise ValueError(
        f"there are no published weights {name!r}{f' of {model}' if model else ''}"
        f"{similar or did_you_mean(name, names)} ({hint})"
    )
