"""The search space: which keys of a recipe vary between the trials, and over which values."""

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, cast

from keras_cnns.recipes import Recipe, RecipeError, parse_overrides, parse_recipe
from keras_cnns.suggestions import did_you_mean

LEARNING_RATE = "optimizer.learning_rate"
_BATCH_SIZE = "training.batch_size"
STRENGTH = "augmentation.strength"  # not a key of a recipe: it sets several keys together
_SECTIONS = ("model", "augmentation", "optimizer", "training", "class_balance")
_FIXED = ("training.epochs", "training.seed", "training.max_steps")
_MAX_CHOICES = 50
_RANGE = re.compile(r"([^:,]*):([^:,]*)(:log)?")
_DIGITS = 4  # number of significant digits of a trial's values

Value = bool | int | float | str
Values = dict[str, Value]  # key -> value

# The levels of `STRENGTH`. Numbers of pixels are given as fractions of the image size. Whether
# images are mirrored depends on the classes and not on the strength, so every level keeps the
# recipe's `horizontal_flip`.
_LEVELS: dict[str, dict[str, float]] = {
    "recipe": {},
    "none": {"pad_and_crop": 0, "random_erasing": 0, "rand_augment_num_ops": 0, "color_jitter": 0},
    "light": {"pad_and_crop": 1 / 16, "random_erasing": 0, "rand_augment_num_ops": 0},
    "medium": {"pad_and_crop": 1 / 8, "random_erasing": 0.1, "rand_augment_num_ops": 0},
    "strong": {"pad_and_crop": 1 / 8, "random_erasing": 0.25, "rand_augment_num_ops": 2},
}


@dataclass(frozen=True)
class Range:
    """All numbers between two bounds, including the bounds."""

    low: float
    high: float
    log: bool = False  # whether the logarithm of the number is distributed uniformly
    whole: bool = False  # whether the numbers are whole

    def suggest(self, trial: Any, key: str) -> Value:
        """Return the value that an Optuna trial suggests for a key."""
        if self.whole:
            return int(trial.suggest_int(key, int(self.low), int(self.high), log=self.log))
        return float(trial.suggest_float(key, self.low, self.high, log=self.log))

    def contains(self, value: Value) -> bool:
        """Return whether a value lies in the range."""
        return not isinstance(value, str) and self.low <= value <= self.high

    def ends(self) -> tuple[Value, ...]:
        """Return the bounds."""
        kind = int if self.whole else float
        return kind(self.low), kind(self.high)

    def __str__(self) -> str:
        text = f"{self.low:.{_DIGITS}g} to {self.high:.{_DIGITS}g}"
        return f"{text}, logarithmic" if self.log else text


@dataclass(frozen=True)
class Choice:
    """A list of values, which have no order."""

    values: tuple[Value, ...]

    def suggest(self, trial: Any, key: str) -> Value:
        """Return the value that an Optuna trial suggests for a key."""
        value: Value = trial.suggest_categorical(key, self.values)
        return value

    def contains(self, value: Value) -> bool:
        """Return whether a value is one of the choices."""
        return value in self.values

    def ends(self) -> tuple[Value, ...]:
        """Return all values."""
        return self.values

    def __str__(self) -> str:
        return ", ".join(map(str, self.values))


Space = dict[str, Range | Choice]  # key -> values


def make_space(recipe: Recipe, searches: Iterable[str] = ()) -> Space:
    """Return the search space of a recipe.

    Args:
        recipe: the recipe; the default ranges lie around its values.
        searches: changes of the default space: `KEY=LOW:HIGH`, `KEY=LOW:HIGH:log` or `KEY=A,B,C`;
            `KEY=A`, where A is the recipe's own value, removes the key from the space.

    Raises:
        ValueError: a change is malformed, or its key or one of its values is impossible; the
            message says what would be right.
    """
    space = _default_space(recipe)
    seen: set[str] = set()
    for text in searches:
        key, values = _parse_search(text, recipe)
        if key in seen:
            raise ValueError(f"--search names {key} twice; give one range or one list")
        seen.add(key)
        if values is None:
            space.pop(key, None)
        else:
            space[key] = values
    if not space:
        raise ValueError("nothing is left to search; give a range: --search KEY=LOW:HIGH")
    _check_pairs(recipe, space)
    return space


def recipe_values(recipe: Recipe, keys: Iterable[str]) -> Values:
    """Return key -> value of the recipe."""
    tree = asdict(cast(Any, recipe))
    return {key: "recipe" if key == STRENGTH else _look_up(tree, key) for key in keys}


def apply_values(recipe: Recipe, values: Mapping[str, Value]) -> Recipe:
    """Return a recipe with the values of a trial.

    The trial's learning rate refers to the recipe's batch size. It is multiplied by (batch size of
    the trial / batch size of the recipe), as in Goyal et al. 2017, unless the recipe's
    `reference_batch_size` does this already.

    Raises:
        RecipeError: a value is impossible.
    """
    tree = asdict(cast(Any, recipe))
    for key, value in values.items():
        if key == STRENGTH:
            tree["augmentation"] |= _augmentation(recipe, str(value))
        else:
            section, _, name = key.partition(".")
            tree[section][name] = _round(value)
    ratio = tree["training"]["batch_size"] / recipe.training.batch_size
    if ratio != 1 and not tree["optimizer"]["reference_batch_size"]:
        tree["optimizer"]["learning_rate"] = _round(tree["optimizer"]["learning_rate"] * ratio)
    return parse_recipe(tree)


def format_values(values: Mapping[str, Value]) -> str:
    """Return values as text, such as `learning_rate 0.1, batch_size 32`."""
    names = short_names(values)
    return ", ".join(f"{names[key]} {format_value(each)}" for key, each in values.items())


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Return key -> the key without its section, or the whole key if names would be equal."""
    names = {key: key.partition(".")[2] for key in keys}
    counts = Counter(names.values())
    return {key: name if counts[name] == 1 else key for key, name in names.items()}


def format_value(value: Value) -> str:
    """Return a value as text."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _default_space(recipe: Recipe) -> Space:
    """Return the default search space of a recipe, which docs/tune.md describes in a table."""
    rate, decay = recipe.optimizer.learning_rate, recipe.optimizer.weight_decay
    batch = recipe.training.batch_size
    sizes = dict.fromkeys(max(1, each) for each in (batch // 2, batch, 2 * batch))
    space: Space = {
        LEARNING_RATE: Range(rate / 5, rate * 5, log=True),
        "optimizer.weight_decay": Range((decay or 1e-4) / 10, (decay or 1e-4) * 10, log=True),
        STRENGTH: Choice(tuple(_LEVELS)),
        "augmentation.label_smoothing": Range(0.0, 0.2),
    }
    if not recipe.training.max_steps:  # with fixed steps, a larger batch would train on more images
        space[_BATCH_SIZE] = Choice(tuple(sizes))
    return space


def _augmentation(recipe: Recipe, level: str) -> dict[str, float]:
    """Return key -> value of the section `augmentation` for a level of strength."""
    if level not in _LEVELS:
        raise RecipeError(
            f"{STRENGTH} is {level!r}{did_you_mean(level, _LEVELS)} "
            f"(the levels are {', '.join(_LEVELS)})"
        )
    values = dict(_LEVELS[level])
    if "pad_and_crop" in values:
        values["pad_and_crop"] = round(values["pad_and_crop"] * recipe.data.image_size)
    return values


def _parse_search(text: str, recipe: Recipe) -> tuple[str, Range | Choice | None]:
    """Return the key and the values of a `--search`; None instead of values removes the key."""
    key, equals, given = (part.strip() for part in text.partition("="))
    if not (equals and key and given):
        raise ValueError(
            f"--search {text!r} does not have the form KEY=LOW:HIGH, KEY=LOW:HIGH:log or KEY=A,B,C"
        )
    _check_key(key, recipe)
    own = recipe_values(recipe, [key])[key]
    is_range = ":" in given and not isinstance(own, str | bool)
    values = _parse_range(key, given, own) if is_range else _parse_choice(key, given)
    try:
        for value in values.ends():
            apply_values(recipe, {key: value})
    except RecipeError as error:
        raise ValueError(f"--search {text!r}: {error}") from None
    if isinstance(values, Choice) and len(values.values) == 1:
        if values.contains(own):
            return key, None
        raise ValueError(
            f"--search {text!r} has one value, and the recipe has {own!r}. To change the recipe, "
            f"use --set {key}={given}; to search, give a range or several values"
        )
    return key, values


def _check_pairs(recipe: Recipe, space: Space) -> None:
    """Raise ValueError if values of two keys are incompatible.

    Otherwise a trial with such values would fail in the middle of the search.
    """
    for (key, values), (other_key, others) in itertools.combinations(space.items(), 2):
        for value, other in itertools.product(values.ends(), others.ends()):
            try:
                apply_values(recipe, {key: value, other_key: other})
            except RecipeError as error:
                raise ValueError(
                    f"{key} = {value} and {other_key} = {other} exclude each other, and both are "
                    f"in the search space; search only one of the keys: {error}"
                ) from None


def _check_key(key: str, recipe: Recipe) -> None:
    """Raise ValueError unless a key can be searched."""
    if key in _FIXED or key.startswith("data."):
        raise ValueError(
            f"{key} cannot be searched: epochs, seed and data are the same in every trial, since "
            "accuracies could not be compared otherwise; --set changes it for all trials"
        )
    known = [
        f"{section}.{field.name}"
        for section in _SECTIONS
        for field in fields(getattr(recipe, section))
        if isinstance(getattr(getattr(recipe, section), field.name), bool | int | float | str)
    ]
    known = [each for each in (*known, STRENGTH) if each not in _FIXED]
    if key not in known:
        section = [each for each in known if each.partition(".")[0] == key.partition(".")[0]]
        raise ValueError(
            f"unknown key {key}{did_you_mean(key, known)} (known: {', '.join(section or known)})"
        )


def _parse_range(key: str, text: str, own: Value) -> Range:
    match = _RANGE.fullmatch(text)
    if match is None:
        raise ValueError(f"--search {key}={text}: a range is LOW:HIGH or LOW:HIGH:log")
    try:
        low, high = float(match[1]), float(match[2])
    except ValueError:
        raise ValueError(
            f"--search {key}={text}: {match[1]!r} or {match[2]!r} is not a number"
        ) from None
    log = bool(match[3])
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(
            f"--search {key}={text}: LOW must be below HIGH, and both must be finite numbers"
        )
    if log and low <= 0:
        raise ValueError(f"--search {key}={text}: a logarithmic range must begin above 0")
    whole = isinstance(own, int)
    if whole and not (low.is_integer() and high.is_integer()):
        raise ValueError(f"--search {key}={text}: {key} needs whole numbers")
    return Range(low, high, log, whole)


def _parse_choice(key: str, text: str) -> Choice:
    values = [
        parse_overrides([f"{key}={part.strip()}"])[key] if part.strip() else ""
        for part in text.split(",")
    ]
    wrong = [
        each for each in values if not isinstance(each, bool | int | float | str) or each == ""
    ]
    if wrong or len(set(map(repr, values))) < len(values) or len(values) > _MAX_CHOICES:
        raise ValueError(
            f"--search {key}={text[:200]}: give at most {_MAX_CHOICES} different numbers or words, "
            "separated by commas, or a range such as 0.1:1"
        )
    return Choice(tuple(values))


def _look_up(tree: Mapping[str, Any], key: str) -> Value:
    section, _, name = key.partition(".")
    value: Value = tree[section][name]
    return value


def _round(value: Any) -> Any:
    """Return a number rounded to few digits, as in a recipe written by hand."""
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
