"""Datasets for measuring a training step without an input pipeline."""

from typing import Any

import tensorflow as tf

from keras_cnns.data.autotuning import without_autotuning


def repeat_batch(images: Any, targets: Any, count: int = -1) -> tf.data.Dataset:
    """Return a dataset that repeats one batch `count` times, or without end if `count` is -1.

    Autotuning is disabled. With autotuning, the end of an epoch or of `fit` can take as long as all
    steps before it, and a benchmark would measure this time, too.
    """
    batches = tf.data.Dataset.from_tensors((images, targets)).repeat(count).prefetch(2)
    return without_autotuning(batches)
