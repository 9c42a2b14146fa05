"""A model's predictions on a split."""

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# The minimum of a probability in the loss. Without it, the loss would be infinite if float32 rounds
# a probability to 0.
_MIN_PROBABILITY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Mistake:
    """An image that is classified incorrectly.

    Attributes:
        image: the pixels, uint8 [H, W, C].
        index: the index of the image in the split, from 0.
        label: the index of the true class.
        predicted: the index of the predicted class.
        confidence: the probability of the predicted class.
        label_probability: the probability of the true class.
    """

    image: np.ndarray
    index: int
    label: int
    predicted: int
    confidence: float
    label_probability: float


@dataclass(frozen=True)
class Predictions:
    """Predictions for N images of K classes.

    Attributes:
        classes: the number of classes, K.
        labels: the true classes, int [N].
        predicted: the predicted classes, int [N].
        confidences: the highest probability of each image, float [N].
        label_probabilities: the probability of the true class, float [N].
        mistakes: the mistakes with the highest confidence, in descending order.
        loss: the mean cross-entropy of the main output, in nats.
        path_of: a function that returns the file of the image at an index; None if the images are
            not separate files.
    """

    classes: int
    labels: np.ndarray
    predicted: np.ndarray
    confidences: np.ndarray
    label_probabilities: np.ndarray
    mistakes: tuple[Mistake, ...]
    loss: float
    path_of: Callable[[int], Path] | None = field(default=None, compare=False, repr=False)

    @property
    def is_correct(self) -> np.ndarray:
        """Return whether each image is classified correctly, bool [N]."""
        return np.asarray(self.predicted == self.labels)

    @property
    def accuracy(self) -> float:
        """Return the fraction of images that are classified correctly."""
        return float(np.mean(self.is_correct))

    def metrics(self) -> dict[str, float]:
        """Return the number of images, `samples`, and their `loss` and `accuracy`."""
        return {"samples": len(self.labels), "loss": self.loss, "accuracy": self.accuracy}

    def count_classes(self) -> dict[str, list[int]]:
        """Return the number of `images`, `correct` and `predicted` images of each class, [K]."""

        def count(indices: np.ndarray) -> list[int]:
            return [int(each) for each in np.bincount(indices, minlength=self.classes)]

        return {
            "images": count(self.labels),
            "correct": count(self.labels[self.is_correct]),
            "predicted": count(self.predicted),
        }


def predictor(model: keras.Model) -> Callable[[Any], np.ndarray]:
    """Return a function from images, uint8 [N, H, W, C], to probabilities [N, K].

    The probabilities are those of the main output.

    On TensorFlow, auxiliary outputs are not computed.
    """
    return trace(model, lambda outputs: outputs["main"] if isinstance(outputs, dict) else outputs)


def trace(model: keras.Model, select: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a function from images, uint8 [N, H, W, C], to selected outputs as NumPy arrays.

    The function does not use tf.data, while `model.predict` would make a pipeline with autotuning.
    On TensorFlow it is traced once for all batch sizes, and only the selected outputs are computed.
    Other backends compile it for each batch size.

    Args:
        model: a model whose input is the images.
        select: a function that takes all outputs of the model, and returns those to compute.
    """
    if keras.backend.backend() != "tensorflow":
        return lambda images: select(model.predict_on_batch(np.asarray(images)))
    signature = tf.TensorSpec((None, *model.inputs[0].shape[1:]), tf.uint8)
    traced = tf.function(
        lambda images: select(model(images, training=False)),
        input_signature=[signature],
        autograph=False,
    )
    return lambda images: tf.nest.map_structure(np.asarray, traced(images))


def collect(
    model: keras.Model,
    batches: Iterable[Any],
    worst: int = 60,
    path_of: Callable[[int], Path] | None = None,
) -> Predictions:
    """Predict the classes of batches of (images uint8 [N, H, W, C], labels int [N]).

    Args:
        model: a model whose output is probabilities [N, K], or a dict of outputs whose `main` is
            the probabilities.
        batches: an epoch of a split.
        worst: the number of mistakes whose images are kept, beginning with the highest confidence.
        path_of: a function that returns the file of the image at an index; by default the function
            of the split, if its images are files.
    """
    labels, predicted, confidences, label_probabilities = [], [], [], []
    heap: list[tuple[float, int, Mistake]] = []
    path_of = path_of or getattr(batches, "path_of", None)
    seen = classes = 0
    predict = predictor(model)
    for images, targets in batches:
        probabilities = predict(images)
        targets, pixels = np.asarray(targets), np.asarray(images)
        classes = probabilities.shape[1]
        best = probabilities.argmax(axis=1)
        confidence = probabilities.max(axis=1).astype(float)
        label_probability = probabilities[np.arange(len(targets)), targets].astype(float)
        for i in np.flatnonzero(best != targets):
            index = seen + int(i)
            mistake = Mistake(
                image=pixels[i].copy(),  # a view would keep the whole batch in memory
                index=index,
                label=int(targets[i]),
                predicted=int(best[i]),
                confidence=float(confidence[i]),
                label_probability=float(label_probability[i]),
            )
            # Among mistakes with the same confidence, the one with the lower index is kept.
            heapq.heappush(heap, (mistake.confidence, -index, mistake))
            if len(heap) > worst:
                heapq.heappop(heap)
        seen += len(targets)
        labels.append(targets)
        predicted.append(best)
        confidences.append(confidence)
        label_probabilities.append(label_probability)
    mistakes = tuple(mistake for *_, mistake in sorted(heap, key=lambda each: each[:2])[::-1])
    probabilities_of_labels = np.concatenate(label_probabilities)
    return Predictions(
        classes,
        np.concatenate(labels).astype(int),
        np.concatenate(predicted),
        np.concatenate(confidences),
        probabilities_of_labels,
        mistakes,
        float(-np.mean(np.log(np.maximum(probabilities_of_labels, _MIN_PROBABILITY)))),
        path_of,
    )
