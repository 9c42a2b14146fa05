"""Recipes: what to train, on what and how, as data.

A recipe is a TOML file, which may say `base = "another"` and then only what differs. Read, it is a
frozen `Recipe` whose every field has been checked. Unknown keys, wrong types and values out of
range are errors that name the key, the value and what is allowed.
"""

import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import tomli_w
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from keras_cnns.files import read_text
from keras_cnns.recipes.former import FORMER_KEYS, replace_former_keys
from keras_cnns.suggestions import did_you_mean

CHECKED = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

PositiveInt = Annotated[int, Field(ge=1, le=10**9)]
Share = Annotated[float, Field(ge=0, le=1)]
PerChannel = tuple[float, ...]
Schedule = Literal["constant", "step", "cosine", "polynomial", "one_cycle", "exponential"]


class RecipeError(ValueError):
    """A recipe that cannot be used; the message names each wrong key."""


@dataclass(frozen=True, config=CHECKED)
class ModelConfig:
    """Which net."""

    name: str  # a key of keras_cnns.models.MODELS
    aux_heads: bool = False  # train with the net's auxiliary classifiers
    weights: str = ""  # a file to begin from, of this net: torchvision's, timm's, Keras' or ours
    frozen_epochs: Annotated[int, Field(ge=0)] = 0  # with weights: only the classifier learns
    unfreeze_epochs: Annotated[int, Field(ge=0)] = 0  # then a stage more each; 0: all at once

    def __post_init__(self) -> None:
        if self.frozen_epochs and not self.weights:
            raise ValueError("frozen_epochs needs weights: a net of random ones has to learn")


@dataclass(frozen=True, config=CHECKED)
class DataConfig:
    """Which images, and how they come to the net."""

    # "digits", "shapes", "folder", "idx", or a name of TFDS, as "cifar10" or "cifar10:3.0.2".
    name: str
    image_size: PositiveInt  # pixels, height and width of what the net sees
    resize_shorter: PositiveInt  # pixels, the shorter side before the centre crop
    channels: Literal[1, 3]  # grey or RGB
    mean: PerChannel  # per channel, in levels 0 to 255; subtracted inside the model
    std: Annotated[
        PerChannel, Field(min_length=1)
    ]  # per channel, in levels; divides inside the model
    train_split: str = "train"
    # Chooses the best epoch; without it, a tenth of the training images is taken by content.
    validation_split: str = "validation"
    test_split: str = "test"  # is only reported
    # Of `folder`: the folder that has one folder for each class, or split folders that have them.
    # Of `idx`: the folder of the four files, or that folder and the beginning of their names.
    # A relative path is relative to the working directory; a run directory stores it absolute.
    path: str = ""
    skip_bad: bool = False  # of `folder`: leave out the files that training is refused for
    samples: PositiveInt = 10_000  # of `shapes`: training images; validation and test have a tenth

    def __post_init__(self) -> None:
        for key in ("mean", "std"):
            values = getattr(self, key)
            if len(values) != self.channels:
                raise ValueError(f"{key} has {len(values)} values for {self.channels} channels")
        if min(self.std) <= 0:
            raise ValueError(f"std is {list(self.std)}; each must be above 0")
        if (self.name in ("folder", "idx")) != bool(self.path):
            raise ValueError(
                'name = "folder" and name = "idx" need a path, and no other name has one: '
                f"name is {self.name!r}, path {self.path!r}"
            )
        if self.resize_shorter < self.image_size:
            raise ValueError(
                f"resize_shorter is {self.resize_shorter}; it must be at least image_size, "
                f"{self.image_size}"
            )

    def preprocessing(self) -> dict[str, Any]:
        """Return what happens to an image before it is the net's input, as model.json says it."""
        return {
            "resize_shorter": self.resize_shorter,
            "crop": self.image_size,
            "interpolation": "bilinear",
            "antialias": True,
            "channels": self.channels,
        }


@dataclass(frozen=True, config=CHECKED)
class AugmentationConfig:
    """What happens to training images and their labels, in this order."""

    inception_crop: bool = False  # 8 to 100 % of the area, ratio 3/4 to 4/3, instead of the middle
    color_jitter: Share = 0.0  # largest change of brightness, contrast and saturation
    rand_augment_layers: Annotated[int, Field(ge=0, le=14)] = 0  # operations on an image; 2 usual
    rand_augment_magnitude: Annotated[float, Field(ge=0, le=10)] = 9.0  # of 10
    pad_and_crop: Annotated[int, Field(ge=0)] = 0  # pixels of random shift
    horizontal_flip: bool = False  # mirror half of the images
    random_erasing: Share = 0.0  # share of images that lose a rectangle
    mixup_alpha: Annotated[float, Field(ge=0, le=100)] = 0.0  # of Beta(alpha, alpha)
    cutmix_alpha: Annotated[float, Field(ge=0, le=100)] = 0.0  # with both, each on half the images
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0  # taken from the true class

    @property
    def soft_targets(self) -> bool:
        """Whether a target is a distribution over the classes, and not a class's number."""
        return bool(self.mixup_alpha or self.cutmix_alpha or self.label_smoothing)


@dataclass(frozen=True, config=CHECKED)
class OptimizerConfig:
    """Momentum, and its learning rate over time."""

    learning_rate: Annotated[float, Field(gt=0)]  # the highest
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0)] = 0.0  # coupled, as in He et al. 2015
    decay_norm_and_bias: bool = True  # decay them too, as He et al. and torch do
    bias_rate: Annotated[float, Field(gt=0)] = 1.0  # of biases, as a factor; Caffe's nets have 2
    rate_batch_size: Annotated[int, Field(ge=0)] = 0  # the rate is for so many images; 0: for any
    schedule: Schedule = "constant"
    warmup_epochs: Annotated[float, Field(ge=0)] = (
        0.0  # from 0; with rate_batch_size from learning_rate
    )
    # A low, constant learning rate for the first steps, as He et al. 2015 trained ResNet-110.
    warmup_steps: Annotated[int, Field(ge=0)] = 0  # at warmup_learning_rate; 0: no such warmup
    warmup_learning_rate: Annotated[float, Field(ge=0)] = 0.0  # of those steps; 0 without them
    decay_at_epochs: tuple[float, ...] = ()  # of `step`
    decay_at_steps: tuple[int, ...] = ()  # of `step`, instead
    decay_epochs: Annotated[float, Field(gt=0)] = (
        8.0  # of `exponential`: from one stair to the next
    )
    decay_factor: Annotated[float, Field(gt=0, lt=1)] = 0.1  # of `step` and `exponential`
    power: Annotated[float, Field(gt=0)] = 1.0  # of `polynomial`
    rise: Annotated[float, Field(gt=0, lt=1)] = 0.3  # of `one_cycle`: share of the steps
    average_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of averaged weights; 0: none

    def __post_init__(self) -> None:
        if (self.schedule == "step") != bool(self.decay_at_epochs or self.decay_at_steps):
            raise ValueError(
                'schedule = "step" needs decay_at_epochs or decay_at_steps, and no other has them'
            )
        if self.decay_at_epochs and self.decay_at_steps:
            raise ValueError("decay_at_epochs and decay_at_steps are both given; remove one")
        if bool(self.warmup_steps) != bool(self.warmup_learning_rate):
            raise ValueError(
                "warmup_steps and warmup_learning_rate belong together, both above 0 or both 0: "
                f"they are {self.warmup_steps} and {self.warmup_learning_rate}"
            )


@dataclass(frozen=True, config=CHECKED)
class TrainingConfig:
    """How long, and in what portions."""

    epochs: PositiveInt
    batch_size: PositiveInt
    steps: Annotated[int, Field(ge=0)] = 0  # where the last epoch ends early; 0: it does not
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    # Of the convolutions; weights, norms' statistics and heads are float32 in both.
    precision: Literal["float32", "bfloat16"] = "float32"
    aux_loss_weight: Share = 0.3  # of each auxiliary classifier (Szegedy et al. 2014, section 5)


@dataclass(frozen=True, config=CHECKED)
class Recipe:
    """One training, whole."""

    model: ModelConfig
    data: DataConfig
    optimizer: OptimizerConfig
    training: TrainingConfig
    augmentation: AugmentationConfig = AugmentationConfig()


def list_recipes() -> list[str]:
    """Return the names of the built-in recipes."""
    folder = resources.files("keras_cnns.recipes")
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    )


def load_recipe(name: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe and apply overrides.

    Args:
        name: a built-in recipe's name, or the path of a TOML file.
        overrides: `section.key=value` each, the value as TOML writes it; bare words are strings.

    Raises:
        RecipeError: there is no such recipe, or it or an override is wrong.
    """
    values = _read(name)
    for override in overrides:
        key, equals, text = override.partition("=")
        section, dot, entry = key.strip().partition(".")
        if not (equals and dot and section and entry):
            raise RecipeError(f"{override!r} is not of the form section.key=value")
        if not isinstance(values.setdefault(section, {}), dict):
            raise RecipeError(f"{override!r}: {section} is not a section")
        values[section][entry] = _parse_value(text.strip())
    return parse_recipe(values)


def parse_recipe(values: Mapping[str, Any]) -> Recipe:
    """Check a recipe's values and return it frozen.

    Raises:
        RecipeError: a key is unknown or missing, or a value has a wrong type or is out of range.
    """
    try:
        # As JSON, since a strict reading of Python values would refuse TOML's lists for tuples.
        return TypeAdapter(Recipe).validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise RecipeError("; ".join(_explain(problem) for problem in error.errors())) from None


def load_run_recipe(path: Path) -> Recipe:
    """Read the recipe of a run directory, which an earlier version may have written.

    Args:
        path: its `config.toml`.

    Raises:
        RecipeError: the file cannot be read, or is wrong.
    """
    return parse_recipe(replace_former_keys(_read(path)))


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """Return a recipe whose files are found from every working directory."""
    data, model = recipe.data, recipe.model
    if data.path:
        data = replace(data, path=os.path.abspath(data.path))  # noqa: PTH100 - keeps symbolic links
    if model.weights and Path(model.weights).is_file():
        model = replace(model, weights=os.path.abspath(model.weights))  # noqa: PTH100
    return replace(recipe, data=data, model=model)


def format_recipe(recipe: Recipe) -> str:
    """Return a recipe as TOML, every value written out."""
    return tomli_w.dumps(asdict(cast(Any, recipe)))


def _read(name: str | Path) -> dict[str, Any]:
    path = Path(name)
    if path.suffix != ".toml" and not path.is_file():
        if str(name) not in list_recipes():
            raise RecipeError(
                f"there is no recipe {str(name)!r}{did_you_mean(str(name), list_recipes())} "
                f"(built in: {', '.join(list_recipes())}; or give the path of a .toml file)"
            )
        text = (resources.files("keras_cnns.recipes") / f"{name}.toml").read_text("utf-8")
    else:
        try:
            text = read_text(path)
        except (OSError, ValueError) as error:
            raise RecipeError(f"cannot read the recipe {path}: {error}") from None
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise RecipeError(f"{path}: {error}") from None
    if (base := values.pop("base", None)) is None:
        return values
    if base not in list_recipes() or base == name:
        raise RecipeError(f"{path}: base is {base!r}; it must be a built-in recipe's name")
    return _merge(_read(base), values)


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return the sections of `base` with those keys that `changes` has as it has them."""
    whole = dict(base)
    for section, values in changes.items():
        of_base = base.get(section)
        both = isinstance(values, dict) and isinstance(of_base, dict)
        whole[section] = {**of_base, **values} if both else values  # type: ignore[dict-item]
    return whole


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text


def _explain(problem: Any) -> str:
    """Return one line for one of pydantic's problems: the key, the value, what is allowed."""
    path = [str(part) for part in problem["loc"]]
    key, given = ".".join(path), problem["input"]
    kind, message = problem["type"], problem["msg"]
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        if key in FORMER_KEYS:
            return f"{key} was replaced by {FORMER_KEYS[key].key}: {FORMER_KEYS[key].advice}"
        known = _known_keys(path[:-1])
        return f"unknown key {key}{did_you_mean(path[-1], known)} (known: {', '.join(known)})"
    if kind in ("missing", "missing_argument"):
        return f"{key} is missing"
    if kind == "value_error":
        return f"{key}: {problem['ctx']['error']}"
    return f"{key} is {given!r}: {message[0].lower()}{message[1:]}"


def _known_keys(path: list[str]) -> list[str]:
    node: Any = Recipe
    for part in path:
        node = next((f.type for f in fields(node) if f.name == part), None)
    return [field.name for field in fields(node)] if is_dataclass(node) else []
