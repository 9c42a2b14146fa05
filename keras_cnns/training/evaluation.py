"""What a finished run knows: measured on a split, or asked about images."""

from collections.abc import Iterable
from pathlib import Path

import keras
import numpy as np

from keras_cnns.data import open_split, preprocess, read_image
from keras_cnns.recipes import Recipe
from keras_cnns.training.compiling import accuracy_key, compile_model, for_outputs
from keras_cnns.training.run import Run


def evaluate(run: Run, split: str | None = None) -> dict[str, float]:
    """Return loss, accuracy and number of samples of the run's model on a split.

    Args:
        run: a finished run.
        split: by default the recipe's test split.
    """
    model = run.load_model()
    compile_model(model, run.recipe, steps_per_epoch=1)
    return measure(model, run.recipe, split or run.recipe.data.test_split)


def measure(model: keras.Model, recipe: Recipe, split: str) -> dict[str, float]:
    """Return `samples`, `loss` and `accuracy` of a compiled model on a split."""
    data = open_split(
        recipe.data,
        split,
        batch_size=recipe.training.batch_size,
        one_hot=recipe.augmentation.soft_targets,
    )
    dataset = data.epoch(0)
    results = model.evaluate(for_outputs(model, dataset), return_dict=True, verbose=0)
    return {
        "samples": data.samples,
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
