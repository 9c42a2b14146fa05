"""Datasets without tf.data's autotuning.

The autotuning thread sleeps 10 ms, 20 ms, ... up to a minute between two rounds, and destroying an
iterator may wait for the end of this sleep. The end of `fit`, `evaluate` and `predict` can then
take as long as everything before it (TensorFlow 2.21). This package therefore sets the parallelism
and the buffer sizes of every dataset itself.
"""

import tensorflow as tf


def without_autotuning(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Return a dataset whose iterators start no autotuning thread."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
