"""The run directory: what training leaves behind for `evaluate`, `predict` and export."""

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import keras

from keras_cnns import load_model
from keras_cnns.files import ENCODING, PARTIAL, read_labels, write_json, write_text
from keras_cnns.messages import say
from keras_cnns.recipes import (
    Recipe,
    RecipeError,
    format_recipe,
    load_run_recipe,
    with_absolute_paths,
)
from keras_cnns.runs.environment import describe_environment
from keras_cnns.runs.lock import locked

MODEL = "model.keras"
CONFIG = "config.toml"
LABELS = "labels.txt"
HISTORY = "history.csv"
ENVIRONMENT = "environment.json"
RESULTS = "results.json"
CHECKPOINTS = "checkpoints"
DIAGNOSTICS = "diagnostics.csv"
TIMES = "times.csv"
TENSORBOARD = "tensorboard"
REPORT = "report.html"
README = "README.txt"
README_TEXT = """\
This directory is a run of keras-cnns: {model} trained on {data}.

model.keras       the model of the epoch with the best validation accuracy
config.toml       the recipe, every value written out
labels.txt        the names of the classes, in the order of the model's outputs
history.csv       losses and metrics of each epoch
diagnostics.csv   gradients, activations and updates, by training step
times.csv         duration of the steps of each epoch
tensorboard/      the same metrics for TensorBoard
results.json      loss and accuracy on the test split
report.html       all of this as one page
environment.json  versions, seed, and a fingerprint of the data
checkpoints/      what `keras-cnns train` needs to resume

Load the model in Python, from this directory, where keras-cnns is installed:

    import keras_cnns

    model = keras_cnns.load_model("model.keras")

Its input is pixels from 0 to 255, [N, H, W, C]; its output is probabilities. With
keras.saving.load_model, `import keras_cnns.models` must come first: without it Keras does not know
the layers and the optimizer, and reports that a class "could not be deserialized".
"""


class RunError(ValueError):
    """A directory that is not the run that is asked for; the message says what is wrong."""


@dataclass(frozen=True)
class Run:
    """A finished run."""

    path: Path
    recipe: Recipe
    labels: tuple[str, ...]  # the classes' names, in the order of the outputs

    def load_model(self) -> keras.Model:
        """Return the best epoch's model: pixels 0 to 255 [N, H, W, C] -> probabilities.

        Raises:
            RunError: the file is damaged, or would run code of its own.
        """
        try:
            return load_model(self.path / MODEL, safe_mode=True)
        except Exception as error:
            reason = str(error).strip() or type(error).__name__
            raise RunError(f"cannot load {self.path / MODEL}: {reason}") from error

    def results(self) -> dict[str, Any]:
        """Return `training_seconds`, `best_epoch` and `test`: samples, loss and accuracy."""
        results: dict[str, Any] = json.loads((self.path / RESULTS).read_text("utf-8"))
        return results

    def history(self) -> list[dict[str, float]]:
        """Return one row an epoch: losses, metrics, and what else was measured in it."""
        with (self.path / HISTORY).open(newline="", encoding=ENCODING) as file:
            return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def open_run(path: str | Path) -> Run:
    """Read a run directory.

    Raises:
        RunError: it is not there, or not a finished run.
    """
    path = Path(path)
    check_directory(path)
    missing = [name for name in (CONFIG, MODEL, LABELS, RESULTS) if not (path / name).is_file()]
    if missing:
        raise RunError(f"{path} is not a finished run: it has no {' and no '.join(missing)}")
    try:
        recipe = load_run_recipe(path / CONFIG)
    except RecipeError as error:
        raise RunError(f"{path / CONFIG}: {error}") from None
    return Run(path, recipe, read_label_file(path / LABELS))


def check_directory(path: Path) -> None:
    """Raise RunError unless there is a directory."""
    if not path.exists():
        raise RunError(
            f"there is no run directory {path}; `keras-cnns train --run {path}` makes one"
        )
    if not path.is_dir():
        raise RunError(f"{path} is a file; a run is a directory, which `keras-cnns train` makes")


def read_label_file(path: Path) -> tuple[str, ...]:
    """Return the labels of a file that has one on each line.

    Raises:
        RunError: it is not UTF-8, or a line is blank or repeats an earlier one.
    """
    try:
        return read_labels(path)
    except ValueError as error:
        raise RunError(str(error)) from None


@contextmanager
def opened_for_training(path: Path, recipe: Recipe) -> Iterator[None]:
    """Hold a run directory that is new, or of a training by the same recipe.

    Raises:
        RunError: another process trains in it, it is of another recipe, or is no run directory.
    """
    if path.exists() and not path.is_dir():
        raise RunError(f"{path} is a file; choose another directory")
    try:
        with locked(path):
            _check_recipe(path, recipe)
            yield
    except BlockingIOError:
        raise RunError(f"{path} is in use: {_who_trains(path)} trains in it") from None


def _check_recipe(path: Path, recipe: Recipe) -> None:
    """Raise RunError unless the directory is empty, or of a training by this recipe."""
    if not (path / CONFIG).exists():
        if any(PARTIAL not in each.name for each in path.iterdir()):
            raise RunError(
                f"{path} holds something already, and no {CONFIG}; choose another directory"
            )
        return
    try:
        # A run that an earlier version began may have relative paths.
        former = with_absolute_paths(load_run_recipe(path / CONFIG))
    except RecipeError as error:
        raise RunError(f"{path / CONFIG}: {error}") from None
    if differences := _compare(former, with_absolute_paths(recipe)):
        raise RunError(
            f"{path} is of another recipe: {'; '.join(differences)}. "
            "Choose another directory, or train with that recipe to go on"
        )


def _compare(former: Recipe, recipe: Recipe) -> list[str]:
    """Return `section.key is A there and B here` for each difference."""
    there, here = (asdict(cast(Any, each)) for each in (former, recipe))
    return [
        f"{section}.{key} is {there[section][key]!r} there and {value!r} here"
        for section, values in here.items()
        for key, value in values.items()
        if there[section][key] != value
    ]


def _who_trains(path: Path) -> str:
    try:
        process = json.loads((path / ENVIRONMENT).read_text("utf-8"))["process"]
        return f"process {process['id']} on {process['host']}"
    except (OSError, ValueError, KeyError):
        return "another process"


def check_data(path: Path, data_fingerprint: str) -> None:
    """Raise RunError if a training in the directory was begun with data of another fingerprint."""
    # Runs created before version 0.1 have no fingerprint.
    former = _read_environment(path).get("data_fingerprint", data_fingerprint)
    if former != data_fingerprint:
        raise RunError(
            f"{path} was begun with other data: their fingerprint is {former} there and "
            f"{data_fingerprint} here. Choose another directory, or bring those data back to "
            "go on"
        )


def begin(path: Path, recipe: Recipe, labels: tuple[str, ...], data_fingerprint: str) -> None:
    """Write what a run directory says from the first step on."""
    environment = describe_environment(recipe, data_fingerprint)
    if former := _read_environment(path).get("packages"):
        changed = [
            f"{name} {former.get(name)} (now {version})"
            for name, version in environment["packages"].items()
            if former.get(name) != version
        ]
        if changed:
            say(f"{path} was begun with {', '.join(changed)}: its figures may change")
    write_text(path / LABELS, "".join(f"{label}\n" for label in labels))
    text = README_TEXT.format(model=recipe.model.name, data=recipe.data.name)
    write_text(path / README, text)
    write_json(path / ENVIRONMENT, environment)
    write_text(path / CONFIG, format_recipe(with_absolute_paths(recipe)))


def _read_environment(path: Path) -> dict[str, Any]:
    """Return what a directory's training depended on so far; nothing where none has begun."""
    file = path / ENVIRONMENT
    return dict(json.loads(file.read_text("utf-8"))) if file.exists() else {}
