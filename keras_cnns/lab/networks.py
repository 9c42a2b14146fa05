"""Train the networks of an experiment from recipes, without run directories."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_cnns.lab.experiment import Report, Settings
from keras_cnns.recipes import Recipe, load_recipe
from keras_cnns.training.model import accuracy_key, for_outputs
from keras_cnns.training.preparation import Preparation, prepare

# The images are small, and are not augmented, so that the training error is the error on the
# original images.
_RECIPES = {
    "digits": (
        "digits-resnet20",
        ("data.image_size=16", "data.resize_shorter=16"),
    ),
    "fashion-mnist": ("fashion-resnet20", ()),
}
_COMMON = ("augmentation.pad_and_crop=0", "augmentation.horizontal_flip=false")
DATA = tuple(_RECIPES)


class _ReportEpochs(keras.callbacks.Callback):
    """Report the finished fraction of a training after each epoch."""

    def __init__(self, report: Report, what: str) -> None:
        super().__init__()
        self.report, self.what = report, what

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        epochs = self.params["epochs"]
        self.report((epoch + 1) / epochs, f"{self.what}, epoch {epoch + 1} of {epochs}")


def part(report: Report, index: int, count: int, name: str = "") -> Report:
    """Return a function that reports the progress of one part of a run.

    Args:
        report: the function that reports the progress of the whole run.
        index: the index of the part, from 0.
        count: the number of parts, which are assumed to take equally long.
        name: the name of the part, which precedes the texts that the part reports.
    """
    prefix = f"{name}: " if name else ""
    return lambda fraction, what: report((index + fraction) / count, prefix + what)


def lab_recipe(settings: Settings, seed: int, *overrides: str) -> Recipe:
    """Return the recipe of an experiment's network.

    Args:
        settings: the settings of the run, which select the images.
        seed: the seed of the initial weights and of the order of the images.
        overrides: strings as for `load_recipe`, such as "model.name=plain20".
    """
    name, of_data = _RECIPES[settings.data]
    return load_recipe(name, (*of_data, *_COMMON, f"training.seed={seed}", *overrides))


def fit(
    recipe: Recipe,
    report: Report,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    *,
    validate: bool = True,
    prepared: Preparation | None = None,
) -> dict[str, list[float]]:
    """Train a recipe's network, and return its curves with a value for each epoch.

    Args:
        recipe: the network, its data, and how to train it.
        report: receives the finished fraction after each epoch.
        callbacks: further callbacks, such as those of `keras_cnns.training.callbacks`.
        validate: whether to evaluate the validation split after each epoch.
        prepared: the result of `prepare(recipe)`, if the caller needs the model or has changed it.

    Returns:
        A dict with the keys "loss" and "error"; with validation, also "val_loss" and "val_error".
        An error is 1 - accuracy. The training values are averaged over the epoch. All values are
        those of the main output.
    """
    prepared = prepared or prepare(recipe)
    model = prepared.model
    validation = prepared.open_held_out()[0] if validate else None
    history = model.fit(
        prepared.batches(),
        steps_per_epoch=prepared.training.steps,
        validation_data=validation and for_outputs(model, validation.epoch(0)),
        epochs=recipe.training.epochs,
        callbacks=[_ReportEpochs(report, recipe.model.name), *callbacks],
        shuffle=False,  # the data set shuffles itself
        verbose=0,
    ).history
    key = accuracy_key(model)
    loss = "main_loss" if "main_loss" in history else "loss"
    curves: dict[str, list[float]] = {}
    for prefix in ("", "val_") if validate else ("",):
        curves[f"{prefix}loss"] = [float(value) for value in history[prefix + loss]]
        curves[f"{prefix}error"] = [1 - float(value) for value in history[prefix + key]]
    return curves
