"""The part of a batch that one replica computes under `tf.distribute`.

A few results depend on the whole batch: the statistics of batch normalisation, the masks of
dropout, and the mean of class weights. The layers and losses that compute them call `current_part`.
It returns None in a training without replicas, and on every backend but TensorFlow.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

_THREAD = threading.local()  # `tf.distribute` traces each replica in a thread of its own


@dataclass(frozen=True)
class ReplicaPart:
    """Consecutive images of a batch.

    All replicas have parts of the same size. If the batch cannot be divided among all replicas,
    several replicas compute the same part; each part is then computed by the same number of
    replicas.

    Attributes:
        first: the index of the first image in the batch, int [].
        count: the number of images of the part, int [].
        total: the number of images of the batch, int [].
    """

    first: Any
    count: Any
    total: Any

    def gather(self, x: Any) -> Any:
        """Return, on each replica, the tensors `x` of all replicas: [...] -> [replicas, ...].

        The gradients of all replicas flow back through the result.
        """
        import tensorflow as tf

        replica = tf.distribute.get_replica_context()
        replicas = replica.num_replicas_in_sync
        own = tf.one_hot(replica.replica_id_in_sync_group, replicas, dtype=x.dtype)
        placed = tf.reshape(own, [replicas, *[1] * len(x.shape)]) * x
        return replica.all_reduce(tf.distribute.ReduceOp.SUM, placed)

    def place(self, x: Any) -> Any:
        """Return `x` as a tensor of the whole batch, with zeros for the images of other parts."""
        import tensorflow as tf

        rest = [[0, 0]] * (len(x.shape) - 1)
        return tf.pad(x, [[self.first, self.total - self.first - self.count], *rest])

    def select(self, x: Any) -> Any:
        """Return this part of a tensor of the whole batch."""
        return x[self.first : self.first + self.count]


def current_part() -> ReplicaPart | None:
    """Return the part that this replica computes; None outside of `part_of_batch`."""
    return getattr(_THREAD, "part", None)


@contextmanager
def part_of_batch(part: ReplicaPart) -> Iterator[None]:
    """Let layers and losses that are called in the block know their part of the batch."""
    _THREAD.part = part
    try:
        yield
    finally:
        _THREAD.part = None
