"""Data for a training step that is measured without its input pipeline."""

from typing import Any

import tensorflow as tf

from keras_cnns.data.autotuning import without_autotuning


def repeat_batch(images: Any, targets: Any, count: int = -1) -> tf.data.Dataset:
    """Return one batch over and over: `count` times, or without end.

    Autotuning is off. With it the end of an epoch or of `fit` takes up to as long again as the
    steps took, and a benchmark measures that.
    """
    batches = tf.data.Dataset.from_tensors((images, targets)).repeat(count).prefetch(2)
    return without_autotuning(batches)
