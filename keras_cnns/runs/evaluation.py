"""Evaluate a model on a split, and predict the classes of image files."""

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_cnns.data import open_split, preprocess, read_image
from keras_cnns.recipes import DataConfig
from keras_cnns.runs.run import Run

_BATCH_SIZE = 32  # images of a prediction
# The minimum of the true class's probability in the loss, which would otherwise be infinite where
# float32 rounds the probability to 0.
_MIN_PROBABILITY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Mistake:
    """An image that was classified wrongly."""

    image: np.ndarray  # uint8 [H, W, C]
    number: int  # its index in the split
    label: int
    predicted: int
    confidence: float  # the probability of the predicted class
    of_label: float  # the probability of the true class


@dataclass(frozen=True)
class Predictions:
    """Predictions for N images of K classes."""

    classes: int
    labels: np.ndarray  # int [N]
    predicted: np.ndarray  # int [N]
    confidences: np.ndarray  # float [N], the highest probability
    mistakes: tuple[Mistake, ...]  # the most confident ones, in descending order
    loss: float  # mean cross-entropy of the main output, in nats

    @property
    def accuracy(self) -> float:
        """Return the fraction of images that are classified correctly."""
        return float(np.mean(self.predicted == self.labels))

    def metrics(self) -> dict[str, float]:
        """Return the number of images, `samples`, and their `loss` and `accuracy`."""
        return {"samples": len(self.labels), "loss": self.loss, "accuracy": self.accuracy}

    def confusion(self) -> np.ndarray:
        """Return counts [K, K]: true class in the row, predicted in the column."""
        flat = self.labels * self.classes + self.predicted
        return np.bincount(flat, minlength=self.classes**2).reshape(self.classes, self.classes)

    def precision_and_recall(self) -> tuple[np.ndarray, np.ndarray]:
        """Return both by class, float [K]; NaN where there is nothing to count."""
        counts = self.confusion()
        hits = np.diag(counts).astype(float)
        with np.errstate(invalid="ignore"):
            return hits / counts.sum(axis=0), hits / counts.sum(axis=1)


def find_split(data: DataConfig, split: str) -> str:
    """Return the value of one of a recipe's three splits.

    Any other part of the data set may hold images that the model was trained on.

    Args:
        data: the recipe's data.
        split: `train`, `validation` or `test`, for the recipe's `train_split`, `validation_split`
            or `test_split`; or the value of one of these, as `train[:80%]`.

    Raises:
        ValueError: the recipe has no such split; the message lists those that it has.
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
    """Return `samples`, the number of images, `loss` and `accuracy` of a run's model on a split.

    Args:
        run: a finished run.
        split: one of the recipe's splits, as in `find_split`.

    Raises:
        ValueError: the recipe has no such split, or there is something wrong with its images.
    """
    recipe = run.recipe
    found = find_split(recipe.data, split)
    batches = open_split(recipe.data, found, batch_size=recipe.training.batch_size)
    return collect(run.load_model(), batches).metrics()


def predict(
    run: Run, images: Iterable[str | Path], *, top_k: int = 5
) -> list[list[tuple[str, float]]]:
    """Return the most probable labels of image files, each with its probability, best first.

    Args:
        run: a finished run.
        images: paths of JPEG, PNG, WebP, BMP or GIF files.
        top_k: the number of labels for each image; all of them if there are fewer classes.

    Raises:
        ValueError: a file is not an image, or a damaged one.
        OSError: a file cannot be read.
    """
    predict_batch = predictor(run.load_model())
    return [
        [(run.labels[k], float(row[k])) for k in np.argsort(-row, kind="stable")[:top_k]]
        for pixels in _batches(run.recipe.data, images)
        for row in predict_batch(pixels)
    ]


def predictor(model: keras.Model) -> Callable[[Any], np.ndarray]:
    """Return a function: images uint8 [N, H, W, C] -> probabilities [N, K] of the main output.

    It is traced once for batches of every size, and involves no tf.data: for arrays `model.predict`
    makes a pipeline with autotuning.
    """

    def call(images: tf.Tensor) -> tf.Tensor:
        outputs = model(images, training=False)
        return outputs["main"] if isinstance(outputs, dict) else outputs

    signature = tf.TensorSpec((None, *model.inputs[0].shape[1:]), tf.uint8)
    traced = tf.function(call, input_signature=[signature], autograph=False)
    return lambda images: np.asarray(traced(images))


def collect(model: keras.Model, batches: Iterable[Any], worst: int = 24) -> Predictions:
    """Predict the classes of batches of (images uint8 [N, H, W, C], labels int [N]).

    Args:
        model: images -> probabilities [N, K], or a dict of outputs whose `main` are these.
        batches: an epoch of a split.
        worst: the number of mistakes to keep: those in which the model was most confident.
    """
    labels, predicted, confidences, of_labels = [], [], [], []
    heap: list[tuple[float, int, Mistake]] = []
    seen = classes = 0
    predict = predictor(model)
    for images, targets in batches:
        probabilities = predict(images)
        targets, pixels = np.asarray(targets), np.asarray(images)
        classes = probabilities.shape[1]
        best = probabilities.argmax(axis=1)
        confidence = probabilities.max(axis=1).astype(float)
        of_label = probabilities[np.arange(len(targets)), targets].astype(float)
        for i in np.flatnonzero(best != targets):
            number = seen + int(i)
            mistake = Mistake(
                image=pixels[i],
                number=number,
                label=int(targets[i]),
                predicted=int(best[i]),
                confidence=float(confidence[i]),
                of_label=float(of_label[i]),
            )
            # Of equally confident mistakes the first in the split is kept.
            heapq.heappush(heap, (mistake.confidence, -number, mistake))
            if len(heap) > worst:
                heapq.heappop(heap)
        seen += len(targets)
        labels.append(targets)
        predicted.append(best)
        confidences.append(confidence)
        of_labels.append(of_label)
    mistakes = tuple(mistake for *_, mistake in sorted(heap, key=lambda each: each[:2])[::-1])
    return Predictions(
        classes,
        np.concatenate(labels).astype(int),
        np.concatenate(predicted),
        np.concatenate(confidences),
        mistakes,
        float(-np.mean(np.log(np.maximum(np.concatenate(of_labels), _MIN_PROBABILITY)))),
    )


def _batches(data: DataConfig, images: Iterable[str | Path]) -> Iterator[np.ndarray]:
    """Yield the preprocessed pixels of image files, uint8 [N, H, W, C]."""
    paths = iter(images)
    while batch := list(islice(paths, _BATCH_SIZE)):
        pixels = [read_image(path, data.channels) for path in batch]
        yield np.stack([preprocess(each, data.preprocessing()) for each in pixels])
