"""From a recipe to a run directory: build, compile, fit."""

import shutil
import sys
import time
from pathlib import Path
from typing import Any

import keras

from keras_cnns.data import load_split, read_labels
from keras_cnns.recipes import Recipe, format_recipe
from keras_cnns.training.callbacks import SaveBest
from keras_cnns.training.compiling import accuracy_key, build_model, compile_model, for_outputs
from keras_cnns.training.evaluation import measure
from keras_cnns.training.run import (
    CONFIG,
    ENVIRONMENT,
    HISTORY,
    LABELS,
    MODEL,
    RESULTS,
    Run,
    describe_environment,
    open_run,
    write_json,
)


def make_callbacks(recipe: Recipe, run: Path) -> list[keras.callbacks.Callback]:
    """Return what watches the training and reports on it, in the order of its calls."""
    return [keras.callbacks.CSVLogger(run / HISTORY)]


def train(recipe: Recipe, run: str | Path) -> Run:
    """Train as the recipe says, and leave a run directory.

    Args:
        recipe: what to train, on what and how.
        run: the run directory; it must not exist yet, or be empty.

    Returns:
        The finished run; its model is that of the epoch with the best validation accuracy.

    Raises:
        FileExistsError: the run directory holds something already.
        ValueError: there is no such model, data set or split.
    """
    run = Path(run)
    if run.is_dir() and any(run.iterdir()):
        raise FileExistsError(f"{run} holds something already; choose another run directory")
    keras.utils.set_random_seed(recipe.training.seed)
    labels = read_labels(recipe.data)
    batch_size = recipe.training.batch_size
    training = load_split(
        recipe.data,
        recipe.data.train_split,
        batch_size=batch_size,
        training=True,
        seed=recipe.training.seed,
    )
    validation = load_split(recipe.data, recipe.data.validation_split, batch_size=batch_size)
    model = build_model(recipe, len(labels))
    compile_model(model, recipe, int(training.cardinality()))

    run.mkdir(parents=True, exist_ok=True)
    try:
        return _fit(model, recipe, run, labels, training, validation)
    except BaseException:
        if not (run / MODEL).exists():  # not even one epoch: there is nothing to keep
            shutil.rmtree(run)
        raise


def _fit(
    model: keras.Model,
    recipe: Recipe,
    run: Path,
    labels: tuple[str, ...],
    training: Any,
    validation: Any,
) -> Run:
    (run / CONFIG).write_text(format_recipe(recipe), "utf-8")
    (run / LABELS).write_text("".join(f"{label}\n" for label in labels), "utf-8")
    write_json(run / ENVIRONMENT, describe_environment(recipe))
    save_best = SaveBest(run / MODEL, f"val_{accuracy_key(model)}")
    callbacks = make_callbacks(recipe, run)
    start = time.perf_counter()
    model.fit(
        for_outputs(model, training),
        validation_data=for_outputs(model, validation),
        epochs=recipe.training.epochs,
        callbacks=[save_best, *callbacks],
        shuffle=False,  # the data set shuffles itself
        verbose=1 if sys.stdout.isatty() else 2,
    )
    seconds = time.perf_counter() - start
    model.load_weights(run / MODEL)
    results = {
        "training_seconds": round(seconds, 1),
        "best_epoch": save_best.best_epoch,
        "test": measure(model, recipe, recipe.data.test_split),
    }
    write_json(run / RESULTS, results)
    return open_run(run)
