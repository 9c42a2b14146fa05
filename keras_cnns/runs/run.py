"""A finished run, and functions that open its directory."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_cnns import load_model
from keras_cnns.files import read_labels
from keras_cnns.recipes import Recipe, RecipeError, load_run_recipe
from keras_cnns.runs.names import CONFIG, CORRECTIONS, HISTORY, LABELS, MODEL, RESULTS
from keras_cnns.runs.tables import Row, read_rows

if TYPE_CHECKING:
    import keras

    from keras_cnns.runs.predictions import Predictions


class RunError(ValueError):
    """A directory is not a run that can be used; the message explains why."""


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        path: the run directory.
        recipe: the recipe of the training.
        labels: the names of the classes, in the order of the outputs.
        predictions: the predictions on the test split, if this process has trained the run, so that
            a report need not compute them again.
    """

    path: Path
    recipe: Recipe
    labels: tuple[str, ...]
    predictions: "Predictions | None" = field(default=None, compare=False, repr=False)

    def load_model(self) -> "keras.Model":
        """Return the best epoch's model: pixels 0 to 255 [N, H, W, C] -> probabilities.

        Raises:
            RunError: the file is damaged, or loading it would run code that it contains.
        """
        try:
            return load_model(self.path / MODEL, safe_mode=True)
        except Exception as error:
            reason = str(error).strip() or type(error).__name__
            raise RunError(f"cannot load {self.path / MODEL}: {reason}") from error

    def check_classes(self, labels: Sequence[str]) -> None:
        """Raise RunError if the classes of the data have other indices than at the training.

        The classes of a folder are its subfolders, whose order determines the indices. The labels
        of the run may be other names for the same classes, because `labels.txt` can be edited.

        Args:
            labels: the classes of the data, in the order of their indices.
        """
        indices = {label: index for index, label in enumerate(self.labels)}
        has_moved = any(indices.get(label, index) != index for index, label in enumerate(labels))
        if has_moved or len(labels) != len(self.labels):
            raise RunError(
                f"the data of {self.path} have the classes {', '.join(labels)} now, and had the "
                f"classes {', '.join(self.labels)} at the training. Restore the former classes, or "
                "train again"
            )

    def results(self) -> dict[str, Any]:
        """Return the content of `results.json`.

        The keys are `training_seconds`, `best_epoch`, `last_epoch`, `ended_by` and the following.
        `test` has the metrics on the test split: `samples` (the number of images), `loss` and
        `accuracy`. `test_classes` has, for each class, the numbers of `images`, `correct` and
        `predicted` images. `confidence` has thresholds of the highest probability, which were
        chosen on the validation split; see `runs.selective.Confidence`. Runs created before version
        0.2 have only `training_seconds`, `best_epoch` and `test`.
        """
        results: dict[str, Any] = json.loads((self.path / RESULTS).read_text("utf-8"))
        return results

    def history(self) -> list[Row]:
        """Return one row per epoch, with its losses, metrics and diagnostics."""
        return read_rows(self.path / HISTORY)


def open_run(path: str | Path) -> Run:
    """Open the directory of a finished run.

    Raises:
        RunError: the directory does not exist, or is not a finished run.
    """
    path = Path(path)
    check_directory(path)
    missing = [name for name in (CONFIG, MODEL, LABELS, RESULTS) if not (path / name).is_file()]
    if missing:
        raise RunError(f"{path} is not a finished run: it has no {' and no '.join(missing)}")
    return Run(path, read_recipe(path), read_label_file(path))


def check_directory(path: Path) -> None:
    """Raise RunError unless the path is a directory."""
    if not path.exists():
        raise RunError(
            f"there is no run directory {path}; `keras-cnns train --run {path}` makes one"
        )
    if not path.is_dir():
        raise RunError(f"{path} is a file; a run is a directory, which `keras-cnns train` makes")


def read_recipe(path: Path) -> Recipe:
    """Return the recipe of a run directory, with the corrections that the training used.

    The corrections are read from the copy in the run directory, because the original may have
    changed.

    Raises:
        RunError: the recipe is damaged.
    """
    recipe, copy = read_config(path), path / CORRECTIONS
    if not (recipe.data.corrections and copy.is_file()):
        return recipe
    return replace(recipe, data=replace(recipe.data, corrections=str(copy.absolute())))


def read_config(path: Path) -> Recipe:
    """Return the recipe of a run directory; its file may have the format of an earlier version.

    Raises:
        RunError: the recipe is damaged.
    """
    try:
        return load_run_recipe(path / CONFIG)
    except RecipeError as error:
        raise RunError(f"{path / CONFIG}: {error}") from None


def read_label_file(path: Path) -> tuple[str, ...]:
    """Return the labels of a run directory.

    Raises:
        RunError: the file is not UTF-8, or a line is blank or repeats an earlier line.
    """
    try:
        return read_labels(path / LABELS)
    except ValueError as error:
        raise RunError(str(error)) from None
