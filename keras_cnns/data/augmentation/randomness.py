"""Random numbers for each image of an epoch, which depend on (seed, epoch, index) alone.

TensorFlow's Philox generator is counter-based: the n-th number of a stream is a function of the
stream's key and of n. The numbers for any range of an epoch's images can therefore be drawn without
drawing the numbers before them.
"""

from typing import Any, NamedTuple

import tensorflow as tf

NOISE_STREAM = 2
_KEYS_STREAM = 1  # stream 0 is the default of `draw_uniform`
_PHILOX = 1
_NUMBERS_PER_COUNT = 4
# Difference between the seeds of two successive streams; it exceeds the seed of any training.
_STREAM_STRIDE = 2**40


class Start(NamedTuple):
    """The seed, the epoch and the index of a batch's first image: ints, or tensors int64 []."""

    seed: Any
    epoch: Any
    index: Any  # index in the order of the epoch


def permute(indices: tf.Tensor, count: int, seed: Any, epoch: Any) -> tf.Tensor:
    """Return which images are at these indices in the order of an epoch: int64 [M] -> int64 [M]."""
    key = tf.stack([tf.cast(seed, tf.int64), tf.cast(epoch, tf.int64)])
    return tf.random.experimental.index_shuffle(indices, seed=key, max_index=count - 1)


def draw_uniform(start: Start, count: Any, columns: int, *, stream: int = 0) -> tf.Tensor:
    """Draw numbers in [0, 1) for `count` images from `start` on: float32 [count, columns].

    Calls with different `columns` divide the same stream of numbers into rows of different lengths,
    so their numbers are not independent; for independent numbers, pass another `stream`.
    """
    key, counter, width = _open_stream(start, columns, stream)
    numbers = tf.raw_ops.StatelessRandomUniformV2(
        shape=[count, width], key=key, counter=counter, alg=_PHILOX
    )
    return numbers[:, :columns]


def draw_keys(start: Start, count: Any, columns: int) -> tf.Tensor:
    """Draw seeds for TensorFlow's stateless operations: int32 [count, columns, 2]."""
    key, counter, width = _open_stream(start, 2 * columns, _KEYS_STREAM)
    numbers = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[count, width], key=key, counter=counter, alg=_PHILOX, dtype=tf.int32
    )
    return tf.reshape(numbers[:, : 2 * columns], [-1, columns, 2])


def _open_stream(start: Start, columns: int, stream: int) -> tuple[tf.Tensor, tf.Tensor, int]:
    """Return a generator's key, its counter at `start`, and the count of numbers per image."""
    counts = -(-columns // _NUMBERS_PER_COUNT)
    seed = tf.cast(start.seed, tf.int64) + stream * _STREAM_STRIDE
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(
        seed=tf.stack([seed, tf.cast(start.epoch, tf.int64)])
    )
    skipped = tf.cast(start.index, tf.uint64) * counts
    counter += tf.stack([skipped, tf.zeros_like(skipped)])
    return key, counter, counts * _NUMBERS_PER_COUNT
