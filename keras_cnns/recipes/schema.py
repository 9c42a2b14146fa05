"""The schema of recipes, and functions that read and write them.

A recipe is a TOML file with the sections and keys of `Recipe`. If it contains `base = "NAME"`,
where NAME is a built-in recipe, it lists only the keys that differ from that recipe. For an unknown
key, a wrong type or a value out of range, an error names the key, the value and the allowed values.

The docstring below each key is its documentation for users: `keras_cnns.recipes.documentation`
prints it together with the type, the range and the default, which it reads from the annotation.
"""

import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import tomli_w
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from keras_cnns.files import read_text
from keras_cnns.recipes.preprocessing import Preprocessing
from keras_cnns.recipes.renamed_keys import explain_renamed_key, rename_old_keys
from keras_cnns.recipes.unsupported import explain_unsupported_key
from keras_cnns.suggestions import did_you_mean

_CHECKED = ConfigDict(
    extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
)

_PositiveInt = Annotated[int, Field(ge=1, le=10**9)]
_NonNegativeInt = Annotated[int, Field(ge=0)]
_NonNegative = Annotated[float, Field(ge=0)]
_Positive = Annotated[float, Field(gt=0)]
_Fraction = Annotated[float, Field(ge=0, le=1)]
# `keras_cnns.recipes.documentation` shows this range, and `DataConfig` checks it.
_NumFolds = Annotated[int, Field(ge=0, json_schema_extra={"range": "0 or at least 2"})]
_BetaParameter = Annotated[float, Field(ge=0, le=100)]


class RecipeError(ValueError):
    """A recipe that cannot be used; the message names each wrong key."""


@dataclass(frozen=True, config=_CHECKED)
class ModelConfig:
    """The network and its initial weights."""

    name: str
    """The name selects the network; `keras-cnns models` lists all names."""
    aux_heads: bool = False
    """If true, the network is built and trained with its auxiliary classifiers."""
    shortcut: str = ""
    """The blocks of a residual network have this kind of shortcut. "identity", "projection" and
    "projection_everywhere" are the options A, B and C of He et al. 2015. "constant_scaling",
    "exclusive_gating", "shortcut_only_gating" and "dropout" are those of He et al. 2016, table 1.
    With "none", the blocks have no shortcut. If the value is empty, the blocks have the shortcut of
    the network's paper."""
    inception: Literal["reduced", "naive"] = "reduced"
    """With "reduced", the inception modules of GoogLeNet reduce the number of channels before their
    3x3 and 5x5 convolutions and after their pool. With "naive", they do not reduce the number of
    channels (Szegedy et al. 2014, figure 2)."""
    inception_branches: tuple[Literal["1x1", "3x3", "5x5", "pool"], ...] = (
        "1x1",
        "3x3",
        "5x5",
        "pool",
    )
    """Each inception module of GoogLeNet has these branches."""
    width: _Positive = 1.0
    """In GoogLeNet's stem and inception modules, the number of filters of each convolution is
    multiplied by this factor."""
    small_stem: bool = False
    """If true, the network begins with a 3x3 convolution of stride 1, and no pool follows it. This
    stem is for images of about 32x32 pixels. The networks for CIFAR always have such a stem."""
    activation: Literal["relu", "tanh", "sigmoid"] = "relu"
    """All layers except the classifiers have this activation."""
    kernel_initializer: Literal["", "small_normal", "glorot_uniform", "he_normal"] = ""
    """The initial weights of all layers except the classifiers have this distribution;
    "small_normal" is a normal distribution with a standard deviation of 0.01. If the value is
    empty, the weights have the distribution of the network's paper."""
    batch_normalization: bool = True
    """If false, a network with batch normalisation is built without batch normalisation, and its
    convolutions have biases instead."""
    batch_norm_noise: _NonNegative = 0.0
    """If above 0, the training adds noise after each batch normalisation. In each step, two numbers
    are drawn for each channel from a normal distribution with mean 0 and this standard deviation.
    The first number is the mean of the noise, and the absolute value of the second number is its
    standard deviation (Santurkar et al. 2018)."""
    weights: str = ""
    """The training starts from these weights. The value is the name of published weights, such as
    "imagenet" or "torchvision/resnet50.IMAGENET1K_V2" (`keras-cnns weights list` lists all names),
    or the path of a weights file that torchvision, timm, Keras or this project wrote for the same
    network. If the value is empty, the training starts from random weights."""
    frozen_epochs: _NonNegativeInt = 0
    """For this number of epochs at the beginning, only the new classifier is trained, and all other
    layers are frozen. This key requires `weights`."""
    unfreeze_epochs: _NonNegativeInt = 0
    """After `frozen_epochs`, the stages are unfrozen one by one, the last stage first, with this
    number of epochs in between. With 0, all stages are unfrozen at the same time."""

    def __post_init__(self) -> None:
        if self.frozen_epochs and not self.weights:
            raise ValueError(
                "frozen_epochs needs weights, because layers with random weights must not be "
                "frozen; set model.weights, or set model.frozen_epochs to 0"
            )


@dataclass(frozen=True, config=_CHECKED)
class DataConfig:
    """The images, their splits and their preprocessing."""

    name: str
    """The name selects the dataset: "digits", "shapes", "folder", "idx", or a dataset of TensorFlow
    Datasets, with or without its version, such as "cifar10" or "cifar10:3.0.2"."""
    image_size: _PositiveInt
    """The network's input has this height and width in pixels."""
    resize_shorter: _PositiveInt
    """Each image is resized so that its shorter side has this number of pixels. A square of
    `image_size` pixels is then cropped from its centre."""
    channels: Literal[1, 3]
    """The network's input has one channel (grey) or three (RGB)."""
    mean: tuple[float, ...]
    """The model subtracts these values from the pixels. There is one value per channel, in levels
    from 0 to 255; all numbers are allowed."""
    std: tuple[_Positive, ...]
    """After the subtraction of `mean`, the model divides the pixels by these values. There is one
    value per channel, in levels from 0 to 255."""
    train_split: str = "train"
    """The network is trained on this split or slice of a split, such as "train[:80%]"."""
    validation_split: str = "validation"
    """The accuracy on this split selects the best epoch. If the dataset has no such split, a tenth
    of the training images, selected by a hash of their content, becomes the validation split."""
    test_split: str = "test"
    """The final loss and accuracy are measured on this split, which has no influence on the
    training. If the dataset has no such split, another tenth of the training images becomes the
    test split."""
    path: str = ""
    """For the dataset "folder", this is the directory of the images. It contains either one
    directory per class, or one directory per split with one directory per class in each of them.
    For the dataset "idx", this is the directory of the four files. If the names of these files
    begin with a prefix, the path ends with this prefix, as in "data/emnist-letters". A run
    directory stores the path as an absolute path."""
    skip_bad: bool = False
    """If true, the dataset "folder" ignores the files that would otherwise stop the training with
    an error."""
    corrections: str = ""
    """For the dataset "folder", this CSV file changes the labels of images or excludes images; the
    image files themselves do not change. The CSV file has the column `file` and at least one of
    the columns `label` and `exclude`. A run directory stores the absolute path of this CSV file,
    and a copy of the file."""
    folds: _NumFolds = 0
    """For cross-validation, the training and the validation images together are divided into this
    number of folds. `keras-cnns train --folds` trains a model for each fold. With 0, the images are
    not divided into folds."""
    fold: _NonNegativeInt = 0
    """The fold with this number, from 1 to `folds`, replaces the validation split, and all other
    folds together replace the training split. With 0, the splits are not replaced."""
    num_examples: _PositiveInt = 10_000
    """The dataset "shapes" has this number of training images. Its validation split and its test
    split each have a tenth of this number."""

    def __post_init__(self) -> None:
        for key in ("mean", "std"):
            values = getattr(self, key)
            if len(values) != self.channels:
                raise ValueError(f"{key} has {len(values)} values for {self.channels} channels")
        if (self.name in ("folder", "idx")) != bool(self.path):
            raise ValueError(
                'name = "folder" and name = "idx" need a path; other datasets must not have one: '
                f"name is {self.name!r}, path is {self.path!r}"
            )
        if self.corrections and self.name != "folder":
            raise ValueError(
                'corrections are only possible with name = "folder", because they refer to image '
                f"files; name is {self.name!r}"
            )
        if (self.folds, self.fold) != (0, 0) and not 1 <= self.fold <= self.folds >= 2:
            raise ValueError(
                "folds must be at least 2 and fold from 1 to folds, or both must be 0; folds is "
                f"{self.folds} and fold is {self.fold}"
            )
        if self.fold and self.validation_split in (self.train_split, self.test_split):
            other = "train" if self.validation_split == self.train_split else "test"
            raise ValueError(
                "because the training and the validation images are divided into folds, "
                "validation_split must differ from train_split and from test_split; "
                f"{other}_split and validation_split are both {self.validation_split!r}"
            )
        if self.resize_shorter < self.image_size:
            raise ValueError(
                f"resize_shorter is {self.resize_shorter}; it must be at least image_size, "
                f"{self.image_size}"
            )

    def preprocessing(self) -> Preprocessing:
        """Return the preprocessing that turns an image into the network's input."""
        return Preprocessing(self.resize_shorter, self.image_size, channels=self.channels)


@dataclass(frozen=True, config=_CHECKED)
class AugmentationConfig:
    """These random changes are applied to the training images and their labels, in this order."""

    inception_crop: bool = False
    """If true, a random crop with 8 to 100 % of the image's area and an aspect ratio from 3/4 to
    4/3 replaces the centre crop."""
    color_jitter: _Fraction = 0.0
    """Brightness, contrast and saturation change at random by at most this fraction."""
    rand_augment_num_ops: Annotated[int, Field(ge=0, le=14)] = 0
    """RandAugment applies this number of operations to each image; 2 is usual, and 0 disables
    RandAugment."""
    rand_augment_magnitude: Annotated[float, Field(ge=0, le=10)] = 9.0
    """RandAugment applies its operations with this magnitude."""
    pad_and_crop: _NonNegativeInt = 0
    """Each image is padded with zeros by this number of pixels on every side, and then cropped to
    its original size at a random position."""
    horizontal_flip: bool = False
    """If true, each image is mirrored horizontally with a probability of 1/2."""
    random_erasing: _Fraction = 0.0
    """With this probability, noise replaces a random rectangle of an image."""
    mixup_alpha: _BetaParameter = 0.0
    """MixUp draws its lambda from the distribution Beta(alpha, alpha) with this alpha; 0 disables
    MixUp."""
    cutmix_alpha: _BetaParameter = 0.0
    """CutMix draws its lambda from the distribution Beta(alpha, alpha) with this alpha; 0 disables
    CutMix. If MixUp and CutMix are both used, each of them mixes half of the images."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """This fraction of each target's probability is distributed equally over all classes."""

    @property
    def soft_targets(self) -> bool:
        """Return whether a target is a distribution over the classes instead of a class index."""
        return bool(self.mixup_alpha or self.cutmix_alpha or self.label_smoothing)


@dataclass(frozen=True, config=_CHECKED)
class OptimizerConfig:
    """These keys choose the optimizer and the schedule of the learning rate."""

    learning_rate: _Positive
    """This is the highest learning rate of the schedule. If there is a `reference_batch_size`, the
    learning rate is scaled to the batch size."""
    name: str = "momentum"
    """The name selects the optimizer: "momentum", "lars", or the name of a class of
    `keras.optimizers`, in upper or lower case, such as "adam" or "sgd". With "momentum", the
    optimizer is gradient descent with momentum, as in the papers."""
    arguments: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """If the optimizer is not "momentum", its class is called with these arguments, such as `{
    beta_1 = 0.8 }` for "adam"."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """The velocity is multiplied by this momentum in each step."""
    nesterov: bool = False
    """If true, the optimizer uses Nesterov momentum."""
    weight_decay: _NonNegative = 0.0
    """The weights, multiplied by this coefficient, are added to their gradient. This is L2
    regularisation, as in He et al. 2015. The optimizers of Keras use the coefficient for decoupled
    weight decay instead."""
    weight_decay_on_norm_and_bias: bool = True
    """If true, weight decay also applies to biases and to the parameters of batch normalisation, as
    in He et al. 2015 and torch. LARS never decays them, as in You et al. 2017."""
    bias_learning_rate_multiplier: _Positive = 1.0
    """The learning rate of biases is multiplied by this factor (Caffe's models use 2)."""
    stage_learning_rate_factor: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The learning rate of each stage is the learning rate of the next stage multiplied by this
    factor; the classifiers have the full learning rate. This is the discriminative fine-tuning of
    Howard and Ruder 2018, section 3.2. They divide the learning rate by 2.6 from stage to stage,
    which corresponds to a factor of 0.385."""
    reference_batch_size: _NonNegativeInt = 0
    """The learning rate is multiplied by `training.batch_size` / `reference_batch_size` (the linear
    scaling rule of Goyal et al. 2017); 0 disables the scaling."""
    schedule: Literal["constant", "step", "cosine", "polynomial", "one_cycle", "exponential"] = (
        "constant"
    )
    """The learning rate follows this schedule."""
    warmup_epochs: _NonNegative = 0.0
    """For this number of epochs, the learning rate rises linearly from 0, or from the unscaled
    `learning_rate` if there is a `reference_batch_size`."""
    constant_warmup_steps: _NonNegativeInt = 0
    """For this number of steps at the beginning, the learning rate is
    `constant_warmup_learning_rate`, as in the training of ResNet-110 by He et al. 2015; 0 disables
    this warmup."""
    constant_warmup_learning_rate: _NonNegative = 0.0
    """This is the learning rate of the first `constant_warmup_steps` steps. If
    `constant_warmup_steps` is 0, this value must be 0 as well."""
    decay_at_epochs: tuple[_Positive, ...] = ()
    """The schedule "step" multiplies the learning rate by `decay_factor` after each of these
    numbers of epochs, which may be fractions, such as 0.5."""
    decay_at_steps: tuple[_PositiveInt, ...] = ()
    """The schedule "step" multiplies the learning rate by `decay_factor` after each of these
    numbers of steps; this key and `decay_at_epochs` cannot be combined."""
    decay_every_epochs: _Positive = 8.0
    """The schedule "exponential" multiplies the learning rate by `decay_factor` each time this
    number of epochs has passed."""
    decay_factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """The schedules "step" and "exponential" multiply the learning rate by this factor at each
    decay."""
    power: _Positive = 1.0
    """With the schedule "polynomial", the learning rate is proportional to the remaining fraction
    of the steps, raised to this power."""
    rise_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """The schedule "one_cycle" raises the learning rate during this fraction of the steps and
    lowers it afterwards."""
    ema_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Evaluation and the saved model use an exponential moving average of the weights with this
    momentum; 0 disables the average."""

    def __post_init__(self) -> None:
        if self.name == "momentum" and self.arguments:
            raise ValueError(
                'optimizer.arguments cannot be used with the optimizer "momentum"; use its keys '
                "momentum, nesterov and weight_decay instead"
            )
        if self.name != "momentum":
            for key, default in (
                ("momentum", 0.9),
                ("nesterov", False),
                ("bias_learning_rate_multiplier", 1),
                ("stage_learning_rate_factor", 1),
            ):
                if getattr(self, key) != default:
                    raise ValueError(
                        f'{key} is only for the optimizer "momentum"; remove it, and put the '
                        f'arguments of "{self.name}" into optimizer.arguments'
                    )
        for key in ("decay_at_epochs", "decay_at_steps"):
            times = getattr(self, key)
            if any(later <= earlier for earlier, later in pairwise(times)):
                raise ValueError(f"{key} must be in ascending order; it is {list(times)}")
        if (self.schedule == "step") != bool(self.decay_at_epochs or self.decay_at_steps):
            raise ValueError(
                'schedule = "step" needs decay_at_epochs or decay_at_steps; with other schedules, '
                f'these keys must be empty; schedule is "{self.schedule}"'
            )
        if self.decay_at_epochs and self.decay_at_steps:
            raise ValueError("decay_at_epochs and decay_at_steps are both given; remove one")
        if bool(self.constant_warmup_steps) != bool(self.constant_warmup_learning_rate):
            raise ValueError(
                "constant_warmup_steps and constant_warmup_learning_rate must both be above 0, or "
                f"both be 0; they are {self.constant_warmup_steps} and "
                f"{self.constant_warmup_learning_rate}"
            )


@dataclass(frozen=True, config=_CHECKED)
class TrainingConfig:
    """The length of the training, its batches and its precision."""

    epochs: _PositiveInt
    """The training has this number of epochs."""
    batch_size: _PositiveInt
    """Each step processes this number of images, on all devices of all processes together."""
    max_steps: _NonNegativeInt = 0
    """The training ends after this number of steps, even within an epoch. The schedule of the
    learning rate has the same length. With 0, only `epochs` determines the length of the
    training."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """This seed determines the initial weights, the order of the images and their augmentation."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Convolutions are computed in this precision; the weights, the statistics of batch
    normalisation and the classifiers are always in float32."""
    aux_loss_weight: _Fraction = 0.3
    """The loss of each auxiliary classifier is multiplied by this weight (Szegedy et al. 2014,
    section 5)."""
    early_stopping_patience: _NonNegativeInt = 0
    """The training ends when the validation accuracy has not exceeded its previous maximum for this
    number of epochs; 0 disables early stopping. Epochs are counted only after `frozen_epochs` and
    after the last decay of the schedule "step". The schedule must be "constant", "step" or
    "exponential"."""


@dataclass(frozen=True, config=_CHECKED)
class ClassBalanceConfig:
    """These keys balance classes that have different numbers of training images."""

    weights: Literal["none", "inverse", "effective_number"] = "none"
    """The loss of an image is multiplied by the weight of its class, and the loss of a batch is the
    weighted mean of the losses of its images. For a class of n training images, the weight is 1 / n
    with "inverse", and (1 - beta) / (1 - beta^n) with "effective_number" (Cui et al. 2019,
    equation 2)."""
    beta: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """This is the beta of "effective_number". If it is 0, all classes have the same weight. If it
    is near 1, the weights are close to those of "inverse"."""
    balanced_sampling: bool = False
    """If true, each epoch contains the same number of images of each class, and the total number of
    images in an epoch does not change. Images of rare classes are repeated, and the images of
    frequent classes are distributed over several epochs."""
    focal_gamma: Annotated[float, Field(ge=0, le=10)] = 0.0
    """The cross-entropy is multiplied by (1 - p)^gamma, where p is the probability of the true
    class (focal loss, Lin et al. 2017, equation 4); a usual gamma is 2, and 0 disables the focal
    loss."""

    def __post_init__(self) -> None:
        if self.weights != "none" and self.balanced_sampling:
            raise ValueError(
                f'weights = "{self.weights}" and balanced_sampling = true would balance the '
                "classes twice; remove one of them"
            )

    @property
    def changes_loss(self) -> bool:
        """Return whether the loss differs from the plain cross-entropy."""
        return self.weights != "none" or self.focal_gamma > 0


# Schedules that reach their final learning rate only in the last step of the training.
_FIXED_END = ("cosine", "polynomial", "one_cycle")


@dataclass(frozen=True, config=_CHECKED)
class Recipe:
    """A complete description of one training."""

    model: ModelConfig
    data: DataConfig
    optimizer: OptimizerConfig
    training: TrainingConfig
    augmentation: AugmentationConfig = AugmentationConfig()
    class_balance: ClassBalanceConfig = ClassBalanceConfig()

    def __post_init__(self) -> None:
        patience, schedule = self.training.early_stopping_patience, self.optimizer.schedule
        if patience and schedule in _FIXED_END:
            raise ValueError(
                f"training.early_stopping_patience is {patience} and optimizer.schedule is "
                f'"{schedule}", which lowers the learning rate until the last of the '
                f"{self.training.epochs} epochs. With this schedule, the accuracy usually rises "
                "most in the last epochs, which early stopping would skip. Lower training.epochs "
                'instead, or use the schedule "constant", "step" or "exponential"'
            )

    @property
    def soft_targets(self) -> bool:
        """Return whether a training target is a row of K numbers instead of a class index."""
        return self.augmentation.soft_targets or self.class_balance.changes_loss


def list_recipes() -> list[str]:
    """Return the names of the built-in recipes."""
    folder = resources.files("keras_cnns.recipes")
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    )


def read_built_in(name: str) -> str:
    """Return the TOML text of a built-in recipe."""
    return (resources.files("keras_cnns.recipes") / f"{name}.toml").read_text("utf-8")


def load_recipe(name: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe and apply overrides.

    Args:
        name: a built-in recipe's name, or the path of a TOML file.
        overrides: strings of the form `section.key=value`; the value is written as in TOML, but a
            string needs no quotes.

    Raises:
        RecipeError: there is no such recipe, or the recipe or an override is wrong.
    """
    values = _read(name)
    for path, value in parse_overrides(overrides).items():
        section, _, key = path.partition(".")
        if not isinstance(values.setdefault(section, {}), dict):
            raise RecipeError(f"{path!r}: {section} is not a section")
        values[section][key] = value
    return parse_recipe(values)


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """Return a dict from `section.key` to the value, from overrides such as "training.epochs=3".

    Raises:
        RecipeError: an override does not have the form `section.key=value`.
    """
    values = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        section, dot, entry = key.strip().partition(".")
        if not (equals and dot and section and entry):
            raise RecipeError(f"{override!r} does not have the form section.key=value")
        values[f"{section}.{entry}"] = _parse_value(text.strip())
    return values


def parse_recipe(values: Mapping[str, Any]) -> Recipe:
    """Check a recipe's values and return the recipe.

    Raises:
        RecipeError: a key is unknown or missing, or a value has a wrong type or is out of range.
    """
    _check_texts(values)
    try:
        # From JSON, since in strict mode pydantic otherwise rejects a list for a tuple.
        return TypeAdapter(Recipe).validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise RecipeError("; ".join(_explain(problem) for problem in error.errors())) from None


def _check_texts(values: Mapping[str, Any]) -> None:
    """Raise RecipeError for a text that is not Unicode, such as a path that is not UTF-8."""
    for section, table in values.items():
        for key, value in table.items() if isinstance(table, Mapping) else ():
            try:
                value.encode() if isinstance(value, str) else None
            except UnicodeEncodeError:
                raise RecipeError(
                    f"{section}.{key} is {value!r}, which is not UTF-8; rename the file or folder"
                ) from None


def load_run_recipe(path: Path) -> Recipe:
    """Read the recipe of a run directory; an earlier version may have written this recipe.

    Args:
        path: the run directory's `config.toml`.

    Raises:
        RecipeError: the file cannot be read, or a key or value is wrong.
    """
    return parse_recipe(rename_old_keys(_read(path)))


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """Return the recipe with absolute paths, so that it works from every working directory."""
    data, model = recipe.data, recipe.model
    if data.path:
        data = replace(data, path=os.path.abspath(data.path))  # noqa: PTH100 - keeps symbolic links
    if data.corrections:
        data = replace(data, corrections=os.path.abspath(data.corrections))  # noqa: PTH100
    if model.weights and Path(model.weights).is_file():
        model = replace(model, weights=os.path.abspath(model.weights))  # noqa: PTH100
    return replace(recipe, data=data, model=model)


def format_recipe(recipe: Recipe) -> str:
    """Return a recipe as TOML with every key, including those that have their default."""
    return tomli_w.dumps(asdict(cast(Any, recipe)))


def _read(name: str | Path) -> dict[str, Any]:
    path = Path(name)
    if path.suffix != ".toml" and not path.is_file():
        if str(name) not in list_recipes():
            raise RecipeError(
                f"there is no recipe {str(name)!r}{did_you_mean(str(name), list_recipes())} "
                f"(built-in recipes: {', '.join(list_recipes())}; the name may also be the path of "
                "a TOML file)"
            )
        text = read_built_in(str(name))
    else:
        try:
            text = read_text(path)
        except OSError as error:
            raise RecipeError(f"cannot read the recipe {path}: {error.strerror}") from None
        except ValueError as error:
            raise RecipeError(f"cannot read the recipe {path}: {error}") from None
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise RecipeError(f"{path}: {error}") from None
    if (base := values.pop("base", None)) is None:
        return values
    if base not in list_recipes() or base == name:
        raise RecipeError(f"{path}: base is {base!r}; it must be the name of a built-in recipe")
    return _merge(_read(base), values)


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return the sections of `base`, updated with the keys of `changes`."""
    merged = dict(base)
    for section, values in changes.items():
        inherited = base.get(section)
        both = isinstance(values, dict) and isinstance(inherited, dict)
        merged[section] = {**inherited, **values} if both else values  # type: ignore[dict-item]
    return merged


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text


def _explain(problem: Any) -> str:
    """Return the message for an error of pydantic, with key, value and allowed values."""
    path = [str(part) for part in problem["loc"]]
    # The index of a value in a list is in brackets, as in `optimizer.decay_at_steps[0]`.
    key = re.sub(r"\.(\d+)", r"[\1]", ".".join(path))
    given = problem["input"]
    kind, message = problem["type"], problem["msg"]
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        if renamed := explain_renamed_key(key):
            return renamed
        if reason := explain_unsupported_key(key, given):
            return reason
        known = _known_keys(path[:-1])
        return f"unknown key {key}{did_you_mean(path[-1], known)} (known: {', '.join(known)})"
    if kind in ("missing", "missing_argument"):
        return f"{key} is missing"
    if kind == "value_error":
        # An error of the whole recipe has no key.
        return f"{key}: {problem['ctx']['error']}".removeprefix(": ")
    return f"{key} is {given!r}: {message[0].lower()}{message[1:]}"


def _known_keys(path: list[str]) -> list[str]:
    node: Any = Recipe
    for part in path:
        node = next((f.type for f in fields(node) if f.name == part), None)
    return [field.name for field in fields(node)] if is_dataclass(node) else []
