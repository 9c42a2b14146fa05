"""From a recipe to a run directory: build, compile, fit."""

import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_cnns.data import load_split, preprocess, read_image, read_labels
from keras_cnns.models import build
from keras_cnns.optimizers import Momentum
from keras_cnns.recipes import Recipe, format_recipe
from keras_cnns.training.callbacks import SaveBest
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


def build_model(recipe: Recipe, classes: int) -> keras.Model:
    """Build the recipe's net: pixels 0 to 255 [N, H, W, C] -> probabilities [N, K].

    The normalisation is the first layer, so that the saved model, its exports and the server take
    what a camera gives, and none of them can get it wrong.
    """
    data = recipe.data
    shape = (data.image_size, data.image_size, data.channels)
    images = keras.Input(shape, name="images")
    scale = [1 / std for std in data.std]
    offset = [-mean / std for mean, std in zip(data.mean, data.std, strict=True)]
    normalised = keras.layers.Rescaling(scale, offset, dtype="float32", name="normalise")(images)
    return build(
        recipe.model.name,
        input_shape=shape,
        classes=classes,
        aux_heads=recipe.model.aux_heads,
        input_tensor=normalised,
    )


def compile_model(model: keras.Model, recipe: Recipe, steps_per_epoch: int) -> None:
    """Compile with the recipe's optimizer; auxiliary losses count with their weight."""
    optimizer = Momentum(
        learning_rate=make_schedule(recipe, steps_per_epoch),
        momentum=recipe.optimizer.momentum,
        nesterov=recipe.optimizer.nesterov,
        weight_decay=recipe.optimizer.weight_decay,
    )
    loss = "sparse_categorical_crossentropy"
    outputs = model.output
    if isinstance(outputs, dict):
        model.compile(
            optimizer,
            loss=dict.fromkeys(outputs, loss),
            loss_weights={
                name: 1.0 if name == "main" else recipe.training.aux_loss_weight for name in outputs
            },
            metrics={"main": [keras.metrics.SparseCategoricalAccuracy("accuracy")]},
        )
    else:
        model.compile(
            optimizer, loss=loss, metrics=[keras.metrics.SparseCategoricalAccuracy("accuracy")]
        )


def make_schedule(recipe: Recipe, steps_per_epoch: int) -> Any:
    """Return the learning rate: a constant, or a schedule over steps."""
    optimizer = recipe.optimizer
    if optimizer.schedule == "constant":
        return optimizer.learning_rate
    total = recipe.training.epochs * steps_per_epoch
    warmup = min(round(optimizer.warmup_epochs * steps_per_epoch), total - 1)
    if warmup == 0:
        return keras.optimizers.schedules.CosineDecay(optimizer.learning_rate, total)
    return keras.optimizers.schedules.CosineDecay(
        0.0, total - warmup, warmup_target=optimizer.learning_rate, warmup_steps=warmup
    )


def for_outputs(model: keras.Model, dataset: Any) -> Any:
    """Give every output of a model its own copy of the labels."""
    if not isinstance(model.output, dict):
        return dataset
    names = list(model.output)
    return dataset.map(lambda images, labels: (images, dict.fromkeys(names, labels)))


def accuracy_key(model: keras.Model) -> str:
    """Return the logs' name for the main output's accuracy."""
    return "main_accuracy" if isinstance(model.output, dict) else "accuracy"


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
    start = time.perf_counter()
    model.fit(
        for_outputs(model, training),
        validation_data=for_outputs(model, validation),
        epochs=recipe.training.epochs,
        callbacks=[save_best, keras.callbacks.CSVLogger(run / HISTORY)],
        shuffle=False,  # the data set shuffles itself
        verbose=1 if sys.stdout.isatty() else 2,
    )
    seconds = time.perf_counter() - start
    model.load_weights(run / MODEL)
    results = {
        "training_seconds": round(seconds, 1),
        "best_epoch": save_best.best_epoch,
        "test": _measure(model, recipe, recipe.data.test_split),
    }
    write_json(run / RESULTS, results)
    return open_run(run)


def evaluate(run: Run, split: str | None = None) -> dict[str, float]:
    """Return loss, accuracy and number of samples of the run's model on a split.

    Args:
        run: a finished run.
        split: by default the recipe's test split.
    """
    model = run.load_model()
    compile_model(model, run.recipe, steps_per_epoch=1)
    return _measure(model, run.recipe, split or run.recipe.data.test_split)


def _measure(model: keras.Model, recipe: Recipe, split: str) -> dict[str, float]:
    dataset = load_split(recipe.data, split, batch_size=recipe.training.batch_size)
    results = model.evaluate(for_outputs(model, dataset), return_dict=True, verbose=0)
    return {
        "samples": int(dataset.unbatch().reduce(0, lambda count, _: count + 1)),
        "loss": results["main_loss" if isinstance(model.output, dict) else "loss"],
        "accuracy": results[accuracy_key(model)],
    }


def predict(
    run: Run, images: Iterable[str | Path], *, top_k: int = 5
) -> list[list[tuple[str, float]]]:
    """Return the most probable labels of image files, each with its probability, best first.

    Args:
        run: a finished run.
        images: paths of JPEG, PNG or WebP files.
        top_k: labels for an image; fewer where there are fewer classes.

    Raises:
        ValueError: a file is not an image, or a damaged one.
        OSError: a file cannot be read.
    """
    preprocessing = run.recipe.data.preprocessing()
    pixels = [
        preprocess(read_image(path, run.recipe.data.channels), preprocessing) for path in images
    ]
    probabilities = run.load_model().predict(np.stack(pixels), verbose=0)
    if isinstance(probabilities, dict):
        probabilities = probabilities["main"]
    return [
        [(run.labels[k], float(row[k])) for k in np.argsort(-row, kind="stable")[:top_k]]
        for row in probabilities
    ]
