"""Reserve a run directory for a training, and write its first files."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from keras_cnns.data.sources.folder.corrections import Corrections
from keras_cnns.files import PARTIAL, write_json, write_names, write_text
from keras_cnns.messages import print_message
from keras_cnns.recipes import Recipe, format_recipe, with_absolute_paths
from keras_cnns.runs.environment import describe_environment
from keras_cnns.runs.lock import locked
from keras_cnns.runs.names import CONFIG, CORRECTIONS, ENVIRONMENT, LABELS, README, SEARCH
from keras_cnns.runs.run import RunError, read_config

_README_TEXT = """\
This directory is a run of keras-cnns: {model} trained on {data}.

model.keras       the model of the epoch with the best validation accuracy
config.toml       the recipe, with the values of all keys
labels.txt        the names of the classes, in the order of the model's outputs
history.csv       losses and metrics of each epoch
diagnostics.csv   gradients, activations and updates, by training step
times.csv         duration of the steps of each epoch
tensorboard/      the same metrics for TensorBoard
results.json      loss and accuracy on the test split, and thresholds of the probability
report.html       all of this as one page
mistakes.csv      the test images that are classified incorrectly, with the names of their files
corrections.csv   a copy of the corrections of the labels, if the recipe has any
augmented.png     the first training images, as the recipe augments them
environment.json  versions, seed, and a fingerprint of the data
checkpoints/      what `keras-cnns train` needs to resume

Load the model in Python, from this directory, where keras-cnns is installed:

    import keras_cnns

    model = keras_cnns.load_model("model.keras")

Its input is pixels from 0 to 255, [N, H, W, C]; its output is probabilities. With
keras.saving.load_model, `import keras_cnns.models` must come first: without it Keras does not know
the layers and the optimizer, and reports that a class "could not be deserialized".
"""


@contextmanager
def opened_for_training(path: Path, recipe: Recipe) -> Iterator[None]:
    """Lock a run directory, which must be new or belong to a training with the same recipe.

    Raises:
        RunError: another process uses the directory, it has another recipe, it is not a run
            directory, or its path is not UTF-8.
    """
    if path.exists() and not path.is_dir():
        raise RunError(f"{path} is a file; choose another directory")
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise RunError(f"the path {str(path)!r} is not UTF-8; choose another directory") from None
    try:
        with locked(path):
            _check_recipe(path, recipe)
            yield
    except BlockingIOError:
        raise RunError(f"{path} is in use: {describe_use(path)}") from None


def check_data(path: Path, data_fingerprint: str) -> None:
    """Raise RunError if the training in a directory began with other data."""
    # Runs created before version 0.1 have no fingerprint.
    former = _read_environment(path).get("data_fingerprint", data_fingerprint)
    if former != data_fingerprint:
        raise RunError(
            f"the training in {path} was begun with other data: the data had the fingerprint "
            f"{former}, and have the fingerprint {data_fingerprint} now. Choose another "
            "directory, or restore the former data to continue this training"
        )


def begin(
    path: Path,
    recipe: Recipe,
    labels: tuple[str, ...],
    data_fingerprint: str,
    corrections: Corrections | None = None,
) -> None:
    """Write the files that a run directory has before the first step."""
    environment = describe_environment(recipe, data_fingerprint)
    if corrections:
        environment["corrections"] = {
            "labels_changed": len(corrections.labels),
            "images_excluded": len(corrections.excluded),
        }
    if former := _read_environment(path).get("packages"):
        changed = [
            f"{name} {former.get(name)} (now {version})"
            for name, version in environment["packages"].items()
            if former.get(name) != version
        ]
        if changed:
            print_message(
                f"the training in {path} was begun with {', '.join(changed)}: "
                "its metrics may change"
            )
    # The recipe is written first: a directory with other files, but without a recipe, is not a run.
    write_text(path / CONFIG, format_recipe(with_absolute_paths(recipe)))
    if corrections:
        write_names(path / CORRECTIONS, corrections.text)
    write_text(path / LABELS, "".join(f"{label}\n" for label in labels))
    text = _README_TEXT.format(model=recipe.model.name, data=recipe.data.name)
    write_text(path / README, text)
    write_json(path / ENVIRONMENT, environment)


def _check_recipe(path: Path, recipe: Recipe) -> None:
    """Raise RunError unless the directory is empty, or its training has this recipe."""
    if not (path / CONFIG).exists():
        if any(PARTIAL not in each.name for each in path.iterdir()):
            raise RunError(f"{path} is not empty, but has no {CONFIG}; choose another directory")
        return
    former = with_absolute_paths(read_config(path))  # earlier versions wrote relative paths
    if differences := _compare(former, with_absolute_paths(recipe)):
        raise RunError(
            f"{path} contains a training with another recipe: {'; '.join(differences)}. "
            "Choose another directory, or continue this training with its own recipe"
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


def describe_use(path: Path) -> str:
    """Return what another process does in a locked directory, as far as its files show it."""
    if (path / SEARCH).exists():
        return "another process runs a hyperparameter search in it"
    try:
        process = _read_environment(path)["process"]
        return f"process {process['id']} on {process['host']} trains in it"
    except (OSError, ValueError, KeyError):
        return "another process has begun to work in it"


def _read_environment(path: Path) -> dict[str, Any]:
    """Return the recorded environment of a directory's training; {} if no training has begun."""
    file = path / ENVIRONMENT
    return dict(json.loads(file.read_text("utf-8"))) if file.exists() else {}
