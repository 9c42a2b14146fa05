"""The comparison before publication: every written format must make the predictions of Keras.

A float32 format must agree with Keras in the most probable class, and in each probability to within
`_TOLERANCE`. It may predict another class than Keras if the probabilities that Keras gives to the
two classes differ by at most `_TOLERANCE`. The top-1 accuracy of a format in lower precision must
be at least `_MIN_KEPT` times the accuracy of Keras in float32 (MLPerf's rule for inference). If the
images have no labels, the format must predict the same class as Keras for at least the fraction
`_MIN_KEPT` of the images.

A mixed-precision model is exported in float32, and the formats are compared with Keras in float32.
The difference between Keras in float32 and the model in its own precision is measured but not
limited.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from keras_cnns_export.batches import Array, Batch, Predict, mixed
from keras_cnns_export.contract import FormatParity, Metrics, OwnPrecision, Parity
from keras_cnns_export.errors import ExportError, FormatError, failures_of
from keras_cnns_export.graph import OwnAnswers

_TOLERANCE = 1e-4  # maximum difference of a probability; float32 formats differ by about 1e-6
# A format in lower precision must keep at least this fraction of the float32 accuracy.
_MIN_KEPT = 0.99
# Maximum difference of the other outputs, such as logits. If the largest absolute value of an
# output in the batch is greater than 1, the maximum difference is multiplied by this value.
_OTHER_TOLERANCE = 1e-3
_SUM_TOLERANCE = 1e-3  # maximum difference between 1 and the sum of an image's probabilities


class _Tally:
    """The differences between one format and Keras on the images that were added so far."""

    def __init__(self) -> None:
        self.images = self.correct = 0
        self.largest = self.total = 0.0
        # The index of the image with the largest difference, and the image.
        self.worst, self.worst_image = 0, np.empty(0, np.uint8)
        self.disagreeing: list[tuple[int, int, int]] = []  # index, Keras' class, the format's class

    def add(self, images: Array, reference: Array, given: Array, labels: Array | None) -> None:
        difference = np.abs(reference - given)
        per_image = difference.max(axis=1)
        index = int(np.argmax(per_image))  # if there are NaNs, the index of the first NaN
        is_larger = not np.isnan(self.largest) and not per_image[index] <= self.largest
        if is_larger or not self.images:
            self.largest, self.worst = float(per_image[index]), self.images + index
            self.worst_image = images[index].copy()
        expected, first = reference.argmax(axis=1), given.argmax(axis=1)
        rows = np.arange(len(reference))
        tied = reference[rows, expected] - reference[rows, first] <= _TOLERANCE
        for row in np.flatnonzero((expected != first) & ~tied):
            self.disagreeing.append((self.images + int(row), int(expected[row]), int(first[row])))
        self.images += len(reference)
        self.total += float(difference.mean(axis=1).sum())
        if labels is not None:
            self.correct += int((first == labels).sum())

    def result(self, labelled: bool) -> FormatParity:
        return FormatParity(
            largest_difference=self.largest,
            mean_difference=self.total / self.images,
            top_1_agreement=1 - len(self.disagreeing) / self.images,
            accuracy=self.correct / self.images if labelled else None,
            worst_sample=self.worst,
        )


def compare(
    reference: Predict,
    formats: Mapping[str, Predict],
    batches: Iterable[Batch],
    split: str,
    precisions: Mapping[str, str] | None = None,
    own: OwnAnswers | None = None,
    observe: Callable[[Batch, Array, Mapping[str, Array]], None] | None = None,
) -> tuple[Parity, Metrics | None, dict[str, Array]]:
    """Compare every format with Keras on every image, in one pass over the batches.

    Return three values: the differences of all formats; the accuracy of Keras, or None without true
    classes; and a dict from each format to the image, uint8 [H, W, C], on which a probability
    differs most.

    Args:
        reference: Keras in float32.
        formats: format name -> the loaded format.
        batches: the images, which are compared in batches of 1, 3, and then 64.
        split: the name of the images' split.
        precisions: format name -> precision, for the formats that are not in float32.
        own: the predictions of a mixed-precision model in its own precision.
        observe: a function that is called for each batch. Its arguments are the batch (images and
            true classes), the probabilities of Keras, and a dict from the name of each format to
            its probabilities.

    Raises:
        FormatError: a format fails, or differs from Keras more than its precision allows.
        ExportError: the outputs of Keras are not probabilities, or there are no images.
    """
    precisions = precisions or {}
    tallies = {name: _Tally() for name in formats}
    keras, in_own_precision, labelled = _Tally(), _Tally(), True
    with _exact_float32():
        for images, labels in mixed(batches):
            answers = reference(images)
            expected = answers["probabilities"]
            _check_probabilities(expected, keras.images)
            labelled = labelled and labels is not None
            probabilities: dict[str, Array] = {}
            for name, predict in formats.items():
                with failures_of(name):
                    given = predict(images)
                _check_shapes(name, answers, given)
                probabilities[name] = given["probabilities"]
                tallies[name].add(images, expected, probabilities[name], labels)
                if precisions.get(name, "float32") == "float32":
                    _check_other_outputs(name, answers, given, keras.images, split)
            if observe is not None:
                observe((images, labels), expected, probabilities)
            if own is not None:
                in_own_precision.add(images, expected, own.predict(images)["probabilities"], labels)
            keras.add(images, expected, expected, labels)
    if not keras.images:
        raise ExportError(f"the split {split!r} has no images to compare the formats on")
    accuracy = keras.result(labelled).accuracy
    for name, tally in tallies.items():
        if precisions.get(name, "float32") == "float32":
            _check_agreement(name, tally, split)
        else:
            _check_accuracy(name, tally, split, accuracy)
    results = {name: tally.result(labelled) for name, tally in tallies.items()}
    metrics = None if accuracy is None else Metrics(split, keras.images, accuracy)
    own_precision = None
    if own is not None:
        own_result = in_own_precision.result(labelled)
        _check_own_precision(own.policy, own_result)
        own_precision = OwnPrecision(**dataclasses.asdict(own_result), policy=own.policy)
    worst = {name: tally.worst_image for name, tally in tallies.items()}
    return Parity(split, keras.images, results, own_precision), metrics, worst


def _check_probabilities(expected: Array, first: int) -> None:
    sums = expected.sum(axis=1)
    good = (np.abs(sums - 1) <= _SUM_TOLERANCE) & (expected >= 0).all(axis=1)  # False for NaN
    if not good.all():
        row = int(np.argmin(good))
        raise ExportError(
            f"the model's output is no probability distribution: for image {first + row}, its "
            f"values range from {expected[row].min():.4g} to {expected[row].max():.4g}, and their "
            f"sum is {sums[row]:.4g}; end the model with a softmax"
        )


def _check_shapes(name: str, answers: Mapping[str, Array], given: Mapping[str, Array]) -> None:
    for output, expected in answers.items():
        shape = list(given[output].shape) if output in given else None
        if shape != list(expected.shape):
            found = "does not give" if shape is None else f"gives the shape {shape} for"
            raise FormatError(
                name,
                f"{name} {found} the output {output}; for {len(expected)} images, Keras gives the "
                f"shape {list(expected.shape)}",
            )


def _check_other_outputs(
    name: str, answers: Mapping[str, Array], given: Mapping[str, Array], first: int, split: str
) -> None:
    """Check all float32 outputs except the probabilities, which are checked separately."""
    for output, expected in answers.items():
        if output == "probabilities" or expected.dtype != np.float32:
            continue
        difference = np.abs(expected - given[output]).reshape(len(expected), -1).max(axis=1)
        row, scale = int(np.argmax(difference)), max(1.0, float(np.abs(expected).max()))
        if not difference[row] <= _OTHER_TOLERANCE * scale:
            raise FormatError(
                name,
                f"{name} does not give Keras' {output}: the values differ by up to "
                f"{difference[row]:.3g} (at most {_OTHER_TOLERANCE * scale:.3g} is allowed), most "
                f"for image {first + row} in {split!r}",
            )


def _check_agreement(name: str, tally: _Tally, split: str) -> None:
    result = tally.result(labelled=False)
    _check_finite(name, tally, split)
    if result.largest_difference > _TOLERANCE:
        raise FormatError(
            name,
            f"{name} does not give Keras' answers: probabilities differ by up to "
            f"{result.largest_difference:.3g} (at most {_TOLERANCE:g} is allowed; the mean is "
            f"{result.mean_difference:.3g}), most for image {tally.worst} of {tally.images} in "
            f"{split!r}; the top-1 agreement is {result.top_1_agreement:.2%}",
        )
    if tally.disagreeing:
        index, expected, given = tally.disagreeing[0]
        raise FormatError(
            name,
            f"{name} does not give Keras' answers: for image {index} of {tally.images} in "
            f"{split!r}, Keras predicts class {expected} and {name} predicts class {given}; the "
            f"top-1 agreement is {result.top_1_agreement:.2%}, and probabilities differ by up to "
            f"{result.largest_difference:.3g}",
        )


def _check_accuracy(name: str, tally: _Tally, split: str, accuracy: float | None) -> None:
    result = tally.result(labelled=accuracy is not None)
    if accuracy is None:
        what, kept = "top-1 agreement with Keras", result.top_1_agreement
        minimum = _MIN_KEPT
    else:
        what, kept = "top-1 accuracy", result.accuracy or 0.0
        minimum = _MIN_KEPT * accuracy
    _check_finite(name, tally, split)
    if kept < minimum:
        raise FormatError(
            name,
            f"{name} loses too much: its {what} is {kept:.2%} on {tally.images} images of "
            f"{split!r}, and must be at least {minimum:.2%}; probabilities differ by up to "
            f"{result.largest_difference:.3g}, most for image {tally.worst}",
        )


def _check_finite(name: str, tally: _Tally, split: str) -> None:
    if not np.isfinite(tally.largest):
        value = "NaN" if np.isnan(tally.largest) else "infinity"
        raise FormatError(
            name,
            f"{name} answers {value} for image {tally.worst} of {tally.images} in {split!r}, and "
            "Keras does not",
        )


def _check_own_precision(policy: str, result: FormatParity) -> None:
    if np.isnan(result.largest_difference):
        raise ExportError(
            f"for image {result.worst_sample}, the model answers NaN in its own precision, "
            f"{policy}, but not in float32; build it with float32 layers and export it again"
        )


@contextlib.contextmanager
def _exact_float32() -> Iterator[None]:
    """Within the block, multiply in full float32 on a GPU.

    By default, TensorFlow multiplies in TF32 on a GPU, with errors of about 1e-3.
    """
    import tensorflow as tf

    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)
