"""The proof before publication: every written format gives Keras' own answers.

A format in float32 must give each probability to within `TOLERANCE` and the same first class; a
sample counts as agreeing when a format's first class is Keras' first class, or ties with it:
Keras' own probabilities of the two are within `TOLERANCE`. A format in lower precision must keep
`LEAST_KEPT` of the float32 top-1 accuracy (MLPerf's rule for inference), or, without labels, agree
with Keras on that share of the samples.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from keras_cnns_export.contract import FormatParity, Metrics, Parity
from keras_cnns_export.errors import ExportError
from keras_cnns_export.graph import Array, Predict
from keras_cnns_export.samples import Batch, mixed

TOLERANCE = 1e-4  # of a probability; float32 formats differ by about 1e-6
LEAST_KEPT = 0.99
# Of any other output, as a share of its largest value, which may be far from 1.
OTHER_TOLERANCE = 1e-3
_SUM_TOLERANCE = 1e-3  # of a sample's probabilities, from 1


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
            worst_sample=self.worst,
        )


def compare(
    reference: Predict,
    formats: Mapping[str, Predict],
    batches: Iterable[Batch],
    split: str,
    precisions: Mapping[str, str] | None = None,
) -> tuple[Parity, Metrics | None]:
    """Run every format over every sample against Keras; the figures, and Keras' own metrics.

    Args:
        reference: Keras.
        formats: what was written.
        batches: the samples, compared in batches of 1, 3 and 64.
        split: their name.
        precisions: of the formats that are not in float32.

    Raises:
        ExportError: a format is further from Keras than its precision allows; Keras' own answers
            are no probabilities; or there is no sample.
    """
    precisions = precisions or {}
    tallies = {name: _Tally() for name in formats}
    keras, labelled = _Tally(), True
    with _exact_float32():
        for images, labels in mixed(batches):
            answers = reference(images)
            expected = answers["probabilities"]
            _check_probabilities(expected, keras.samples)
            labelled = labelled and labels is not None
            for name, predict in formats.items():
                given = predict(images)
                _check_shapes(name, answers, given)
                tallies[name].add(expected, given["probabilities"], labels)
                if precisions.get(name, "float32") == "float32":
                    _check_other_outputs(name, answers, given, keras.samples, split)
            keras.add(expected, expected, labels)
    if not keras.samples:
        raise ExportError(f"the split {split!r} has no images to compare the formats on")
    accuracy = keras.figures(labelled).accuracy
    for name, tally in tallies.items():
        if precisions.get(name, "float32") == "float32":
            _check_agreement(name, tally, split)
        else:
            _check_accuracy(name, tally, split, accuracy)
    figures = {name: tally.figures(labelled) for name, tally in tallies.items()}
    metrics = None if accuracy is None else Metrics(split, keras.samples, accuracy)
    return Parity(split, keras.samples, figures), metrics


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


def _check_shapes(name: str, answers: Mapping[str, Array], given: Mapping[str, Array]) -> None:
    for output, expected in answers.items():
        shape = list(given[output].shape) if output in given else "nothing"
        if shape != list(expected.shape):
            raise ExportError(
                f"{name} gives {output} {shape} for {len(expected)} images, "
                f"Keras {list(expected.shape)}"
            )


def _check_other_outputs(
    name: str, answers: Mapping[str, Array], given: Mapping[str, Array], first: int, split: str
) -> None:
    """Outputs whose range is their own; `top_k_indices` stand in the order of probabilities."""
    for output, expected in answers.items():
        if output == "probabilities" or expected.dtype != np.float32:
            continue
        difference = np.abs(expected - given[output]).reshape(len(expected), -1).max(axis=1)
        row, scale = int(np.argmax(difference)), max(1.0, float(np.abs(expected).max()))
        if not difference[row] <= OTHER_TOLERANCE * scale:
            raise ExportError(
                f"{name} does not give Keras' {output}: they differ by up to {difference[row]:.3g} "
                f"of {scale:.3g}, worst for sample {first + row} in {split!r}"
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


def _check_accuracy(name: str, tally: _Tally, split: str, accuracy: float | None) -> None:
    figures = tally.figures(labelled=accuracy is not None)
    if accuracy is None:
        what, kept = "top-1 agreement with Keras", figures.top_1_agreement
        least = LEAST_KEPT
    else:
        what, kept = "top-1 accuracy", figures.accuracy or 0.0
        least = LEAST_KEPT * accuracy
    if kept < least or not np.isfinite(figures.largest_difference):
        raise ExportError(
            f"{name} loses too much: its {what} is {kept:.2%} on {tally.samples} samples of "
            f"{split!r}, at least {least:.2%} is asked; probabilities differ by up to "
            f"{figures.largest_difference:.3g}, worst for sample {tally.worst}"
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
