"""Evaluate a finished run on a split of its data, or predict the classes of image files."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from keras_cnns.data import Split, Splits
from keras_cnns.recipes import DataConfig
from keras_cnns.runs.image_files import read_files
from keras_cnns.runs.predictions import Predictions, collect, predictor
from keras_cnns.runs.run import Run


def find_split(data: DataConfig, split: str) -> str:
    """Return the value of the recipe's key for one of its three splits.

    Other parts of the data set are rejected, because they may contain training images.

    Args:
        data: the recipe's data.
        split: `train`, `validation` or `test`, for the recipe's `train_split`, `validation_split`
            or `test_split`; or the value of one of these keys, such as `train[:80%]`.

    Raises:
        ValueError: the recipe has no such split; the message lists the existing ones.
    """
    splits = {
        "train": data.train_split,
        "validation": data.validation_split,
        "test": data.test_split,
    }
    known = {value: value for value in splits.values()} | splits
    if split not in known:
        listed = ", ".join(f"{name} ({value})" for name, value in splits.items())
        raise ValueError(f"the run's recipe has no split {split!r}; its splits are {listed}")
    return known[split]


def evaluate(run: Run, split: str = "test") -> dict[str, float]:
    """Return `samples` (the number of images), `loss` and `accuracy` of a run's model on a split.

    Args:
        run: a finished run.
        split: one of the recipe's splits, as in `find_split`.

    Raises:
        ValueError: the recipe has no such split, there is something wrong with its images, or the
            data have other classes than the run.
    """
    return predict_split(run, split).metrics()


def predict_split(run: Run, split: str = "test") -> Predictions:
    """Return the predictions of a run's model on a split; see `evaluate`."""
    found = find_split(run.recipe.data, split)
    return collect(run.load_model(), open_run_split(run, found))


def open_run_split(run: Run, split: str, batch_size: int | None = None) -> Split:
    """Open a split of a run's data.

    Args:
        run: a finished run.
        split: one of the recipe's splits, as `find_split` returns it.
        batch_size: the number of images in a batch; by default that of the training.

    Raises:
        RunError: the data have other classes than the run.
        ValueError: there is something wrong with the images.
    """
    splits = Splits(run.recipe.data)
    run.check_classes(splits.labels)
    return splits.open(split, batch_size=batch_size or run.recipe.training.batch_size)


def predict(
    run: Run, images: Iterable[str | Path], *, top_k: int = 5
) -> list[list[tuple[str, float]]]:
    """Return the most probable labels of each image file with their probabilities, best first.

    Args:
        run: a finished run.
        images: paths of JPEG, PNG, WebP, BMP or GIF files.
        top_k: the number of labels for each image; all of them if there are fewer classes.

    Raises:
        ValueError: a file is not an image or is damaged.
        OSError: a file cannot be read.
    """
    predict_batch = predictor(run.load_model())
    predictions = []
    for batch in read_files(images, run.recipe.data):
        pixels = []
        for _, image in batch:
            if isinstance(image, Exception):
                raise image
            pixels.append(image)
        predictions += [
            [(run.labels[k], float(row[k])) for k in np.argsort(-row, kind="stable")[:top_k]]
            for row in predict_batch(np.stack(pixels))
        ]
    return predictions
