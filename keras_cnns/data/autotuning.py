"""tf.data without its autotuning.

The autotuning thread sleeps 10 ms, 20 ms, ... up to a minute between two rounds, and to destroy an
iterator can mean to wait for the end of that sleep: the end of `fit`, `evaluate` and `predict` then
takes up to as long again as they took (TensorFlow 2.21). So every dataset here sets its own
parallelism and buffer sizes.
"""

import tensorflow as tf


def without_autotuning(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Return a dataset whose iterators start no autotuning thread."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
