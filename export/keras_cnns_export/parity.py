"""The proof before publication: every written format gives Keras' own answers.

A sample counts as agreeing when a format's first class is Keras' first class, or ties with it:
Keras' own probabilities of the two are within `TOLERANCE`.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from keras_cnns_export.contract import FormatParity, Metrics, Parity
from keras_cnns_export.errors import ExportError
from keras_cnns_export.graph import Array, Predict

TOLERANCE = 1e-4  # of a probability; float32 formats differ by about 1e-6
GENERATED = "generated"  # the split's name where the images are made here
BATCH_SIZE = 64
_SUM_TOLERANCE = 1e-3  # of a sample's probabilities, from 1

Batch = tuple[Array, Array | None]  # images uint8 [N, H, W, C], true classes int [N] or None


class _Tally:
    """One format's figures over the samples so far."""

    def __init__(self) -> None:
        self.samples = self.agreeing = self.correct = 0
        self.largest = self.total = 0.0
        self.worst = 0  # the index of the sample with the largest difference
        self.disagreeing: list[tuple[int, int, int]] = []  # index, Keras' class, the format's

    def add(self, reference: Array, given: Array, labels: Array | None) -> None:
        difference = np.abs(reference - given)
        per_sample = difference.max(axis=1)
        index = int(np.argmax(per_sample))  # of a NaN, if there is one
        if not per_sample[index] <= self.largest:
            self.largest, self.worst = float(per_sample[index]), self.samples + index
        expected, first = reference.argmax(axis=1), given.argmax(axis=1)
        rows = np.arange(len(reference))
        tied = reference[rows, expected] - reference[rows, first] <= TOLERANCE
        for row in np.flatnonzero((expected != first) & ~tied):
            self.disagreeing.append((self.samples + int(row), int(expected[row]), int(first[row])))
        self.samples += len(reference)
        self.total += float(difference.mean(axis=1).sum())
        if labels is not None:
            self.correct += int((first == labels).sum())

    def figures(self, labelled: bool) -> FormatParity:
        return FormatParity(
            largest_difference=self.largest,
            mean_difference=self.total / self.samples,
            top_1_agreement=1 - len(self.disagreeing) / self.samples,
            accuracy=self.correct / self.samples if labelled else None,
        )


def compare(
    reference: Predict, formats: Mapping[str, Predict], batches: Iterable[Batch], split: str
) -> tuple[Parity, Metrics | None]:
    """Run every format over every batch against Keras; the figures, and Keras' own metrics.

    Raises:
        ExportError: a format differs by more than `TOLERANCE` or disagrees in the first class
            outside ties; Keras' own answers are no probabilities; or there is no sample.
    """
    tallies = {name: _Tally() for name in formats}
    keras, labelled = _Tally(), True
    with _exact_float32():
        for images, labels in _cut_first(batches):
            expected = reference(images)["probabilities"]
            _check_probabilities(expected, keras.samples)
            labelled = labelled and labels is not None
            for name, predict in formats.items():
                given = predict(images)["probabilities"]
                if given.shape != expected.shape:
                    raise ExportError(
                        f"{name} gives probabilities {list(given.shape)} for {len(images)} images, "
                        f"Keras {list(expected.shape)}"
                    )
                tallies[name].add(expected, given, labels)
            keras.add(expected, expected, labels)
    if not keras.samples:
        raise ExportError(f"the split {split!r} has no images to compare the formats on")
    for name, tally in tallies.items():
        _check_agreement(name, tally, split)
    figures = {name: tally.figures(labelled) for name, tally in tallies.items()}
    accuracy = keras.figures(labelled).accuracy
    metrics = None if accuracy is None else Metrics(split, keras.samples, accuracy)
    return Parity(split, keras.samples, figures), metrics


def generated_batches(shape: tuple[int, int, int], samples: int = 256) -> Iterator[Batch]:
    """Images for a model that comes without any: noise, half of it in coarse patches."""
    random = np.random.default_rng(0)
    height, width, channels = shape
    for start in range(0, samples, BATCH_SIZE):
        count = min(BATCH_SIZE, samples - start)
        images = random.integers(0, 256, (count, height, width, channels), np.uint8)
        coarse = images[::2, : -(-height // 8), : -(-width // 8)]
        images[::2] = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
        yield images, None


def batches_of(data: Any, shape: tuple[int, int, int]) -> Iterator[Batch]:
    """Batches from images [N, H, W, C], a tuple (images, labels), or a data set of such batches.

    Raises:
        ExportError: the images are not uint8 of the model's `shape` (H, W, C).
    """
    if isinstance(data, np.ndarray):
        data = (data, None)
    for images, labels in _sliced(*data) if isinstance(data, tuple) else data:
        images, labels = np.asarray(images), None if labels is None else np.asarray(labels)
        if images.dtype != np.uint8 or images.shape[1:] != shape:
            raise ExportError(
                f"samples are {images.dtype} {list(images.shape)}; the model takes uint8 "
                f"[N, {', '.join(map(str, shape))}], raw pixels 0..255"
            )
        if labels is not None and labels.shape != images.shape[:1]:
            raise ExportError(
                f"samples have true classes {list(labels.shape)} for {len(images)} images; give "
                "each image the number of its class"
            )
        yield images, labels


def _sliced(images: Array, labels: Array | None) -> Iterator[Batch]:
    if labels is not None and len(labels) != len(images):
        raise ExportError(f"samples have {len(images)} images and {len(labels)} true classes")
    for start in range(0, len(images), BATCH_SIZE):
        cut = slice(start, start + BATCH_SIZE)
        yield images[cut], None if labels is None else labels[cut]


def _cut_first(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches, the first in pieces of 1, 3 and the rest: a graph of a fixed N fails on them."""
    cuts = [slice(0, 1), slice(1, 4), slice(4, None)]
    for images, labels in batches:
        for cut in cuts:
            if len(images[cut]):
                yield images[cut], None if labels is None else labels[cut]
        cuts = [slice(None)]


def _check_probabilities(expected: Array, first: int) -> None:
    sums = expected.sum(axis=1)
    good = (np.abs(sums - 1) <= _SUM_TOLERANCE) & (expected >= 0).all(axis=1)  # False of a NaN
    if not good.all():
        row = int(np.argmin(good))
        raise ExportError(
            f"the model's output is no distribution: for sample {first + row} it runs from "
            f"{expected[row].min():.4g} to {expected[row].max():.4g} and sums to {sums[row]:.4g}; "
            "end the model with a softmax"
        )


def _check_agreement(name: str, tally: _Tally, split: str) -> None:
    figures = tally.figures(labelled=False)
    if not figures.largest_difference <= TOLERANCE:  # so that a NaN fails
        raise ExportError(
            f"{name} does not give Keras' answers: probabilities differ by up to "
            f"{figures.largest_difference:.3g} (at most {TOLERANCE:g} is allowed; mean "
            f"{figures.mean_difference:.3g}), worst for sample {tally.worst} of {tally.samples} "
            f"in {split!r}; top-1 agreement {figures.top_1_agreement:.2%}"
        )
    if tally.disagreeing:
        index, expected, given = tally.disagreeing[0]
        raise ExportError(
            f"{name} does not give Keras' answers: for sample {index} of {tally.samples} in "
            f"{split!r} Keras says class {expected} and {name} class {given}; top-1 agreement "
            f"{figures.top_1_agreement:.2%}, largest difference {figures.largest_difference:.3g}"
        )


@contextlib.contextmanager
def _exact_float32() -> Iterator[None]:
    """A GPU multiplies in full float32 meanwhile: its default, TF32, is off by about 1e-3."""
    import tensorflow as tf

    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)
