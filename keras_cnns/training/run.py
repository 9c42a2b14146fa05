"""The run directory: what training leaves behind for `evaluate`, `predict` and export."""

import csv
import json
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import keras

# A saved net is made of these; importing them registers them with Keras' loader.
import keras_cnns.models
import keras_cnns.optimizers  # noqa: F401
from keras_cnns.models.heads import deep_recursion
from keras_cnns.recipes import Recipe, RecipeError, load_recipe

MODEL = "model.keras"
CONFIG = "config.toml"
LABELS = "labels.txt"
HISTORY = "history.csv"
ENVIRONMENT = "environment.json"
RESULTS = "results.json"


class RunError(ValueError):
    """A directory that is not a finished run; the message says what is missing."""


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
            with deep_recursion():
                return keras.saving.load_model(self.path / MODEL, safe_mode=True)
        except Exception as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise RunError(f"cannot load {self.path / MODEL}: {reason[0]}") from error

    def results(self) -> dict[str, Any]:
        """Return `training_seconds`, `best_epoch` and `test`: samples, loss and accuracy."""
        results: dict[str, Any] = json.loads((self.path / RESULTS).read_text("utf-8"))
        return results

    def history(self) -> list[dict[str, float]]:
        """Return one row an epoch: losses, metrics, rate, seconds."""
        with (self.path / HISTORY).open(newline="") as file:
            return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def open_run(path: str | Path) -> Run:
    """Read a run directory.

    Raises:
        RunError: it is not there, or not a finished run.
    """
    path = Path(path)
    if not path.is_dir():
        raise RunError(
            f"there is no run directory {path}; `keras-cnns train --run {path}` makes one"
        )
    missing = [name for name in (CONFIG, MODEL, LABELS, RESULTS) if not (path / name).is_file()]
    if missing:
        raise RunError(f"{path} is not a finished run: it has no {' and no '.join(missing)}")
    try:
        recipe = load_recipe(path / CONFIG)
    except RecipeError as error:
        raise RunError(f"{path / CONFIG}: {error}") from None
    labels = tuple((path / LABELS).read_text("utf-8").splitlines())
    return Run(path, recipe, labels)


def describe_environment(recipe: Recipe) -> dict[str, Any]:
    """Return what a run depended on: versions, machine, seed."""
    packages = ("keras-cnns", "keras", "tensorflow", "tensorflow-datasets", "numpy")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "backend": keras.backend.backend(),
        "packages": {name: metadata.version(name) for name in packages},
        "seed": recipe.training.seed,
    }


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON."""
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
