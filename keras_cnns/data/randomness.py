"""Random numbers for each sample of an epoch that depend on (seed, epoch, place) and nothing else.

TensorFlow's Philox generator counts: number n of a stream is a function of the stream's key and n.
So the numbers of any stretch of an epoch can be drawn at once, and start anywhere at no cost.
"""

from typing import Any

import tensorflow as tf

PHILOX = 1
NUMBERS_OF_A_COUNT = 4
STREAMS_APART = 2**40  # of the seeds of streams; a training's are all smaller
KEYS_STREAM, NOISE_STREAM = 1, 2  # 0: the draws of an image


def permute(positions: tf.Tensor, count: int, seed: Any, epoch: Any) -> tf.Tensor:
    """Return which samples stand at these positions of an epoch's order: int64 [M] -> [M]."""
    key = tf.stack([tf.cast(seed, tf.int64), tf.cast(epoch, tf.int64)])
    return tf.random.experimental.index_shuffle(positions, seed=key, max_index=count - 1)


def draw_uniform(
    seed: Any, epoch: Any, first: Any, count: Any, columns: int, *, stream: int = 0
) -> tf.Tensor:
    """Return numbers in [0, 1) for positions first, first + 1, ...: float32 [count, columns].

    Numbers of other columns are of the same sequence, cut otherwise, unless of another stream.
    """
    key, counter, width = _open_stream(seed, epoch, first, columns, stream)
    numbers = tf.raw_ops.StatelessRandomUniformV2(
        shape=[count, width], key=key, counter=counter, alg=PHILOX
    )
    return numbers[:, :columns]


def draw_keys(seed: Any, epoch: Any, first: Any, count: Any, columns: int) -> tf.Tensor:
    """Return seeds for TensorFlow's stateless operations: int32 [count, columns, 2]."""
    key, counter, width = _open_stream(seed, epoch, first, 2 * columns, KEYS_STREAM)
    numbers = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[count, width], key=key, counter=counter, alg=PHILOX, dtype=tf.int32
    )
    return tf.reshape(numbers[:, : 2 * columns], [-1, columns, 2])


def _open_stream(
    seed: Any, epoch: Any, first: Any, columns: int, stream: int
) -> tuple[tf.Tensor, tf.Tensor, int]:
    """Return a generator's key, its counter at a position, and the numbers of a position."""
    counts = -(-columns // NUMBERS_OF_A_COUNT)
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(
        seed=tf.stack([tf.cast(seed, tf.int64) + stream * STREAMS_APART, tf.cast(epoch, tf.int64)])
    )
    skipped = tf.cast(first, tf.uint64) * counts
    return key, counter + tf.stack([skipped, tf.zeros_like(skipped)]), counts * NUMBERS_OF_A_COUNT
