"""Balance classes with different numbers of images, by class weights or by balanced sampling."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from keras_cnns.cores import available_cores
from keras_cnns.data.augmentation.randomness import permute
from keras_cnns.data.autotuning import without_autotuning
from keras_cnns.data.sources.base import ImageStream, IndexedImages
from keras_cnns.messages import print_message

RARE_FRACTION = 0.25  # a class with fewer images than this fraction of the largest class is rare
_ROUNDS = 4  # rounds of the cipher that permutes indices, as in tf's index_shuffle
# If a stream has more images than this, counting the images of each class takes a minute or more,
# and a message announces it.
_MANY_IMAGES = 100_000


def rare_classes(counts: Mapping[str, int]) -> list[str]:
    """Return the classes with fewer than a quarter of the images of the largest class.

    Args:
        counts: class -> number of images.
    """
    limit = RARE_FRACTION * max(counts.values(), default=0)
    return [label for label, count in counts.items() if count < limit]


def read_class_indices(images: IndexedImages | ImageStream) -> np.ndarray:
    """Return the class of each image of a split: int64 [count].

    No image is decoded: TensorFlow executes only the operations on which the labels depend. If the
    data set is too large for memory, the labels are read in a separate pass over its records.
    """
    if isinstance(images, ImageStream):
        if images.count > _MANY_IMAGES:
            print_message(f"counting the images of each class: {images.count:,} training images")
        labels = images.encoded(None, tf.constant(0, tf.int64)).map(lambda _, label: label)
    else:
        read = images.read
        labels = tf.data.Dataset.range(images.count).map(
            lambda index: read(index)[1], num_parallel_calls=available_cores()
        )
    batches = without_autotuning(labels.batch(1024)).as_numpy_iterator()
    return np.concatenate(list(batches)).astype(np.int64)


def compute_weights(class_indices: np.ndarray, classes: int, kind: str, beta: float) -> np.ndarray:
    """Return the weight of each class, float32 [K]; only the ratios of the weights matter.

    Args:
        class_indices: the class of each image, int [N].
        classes: the number of classes, K.
        kind: "inverse" for 1 / n, where n is the number of images of the class; "effective_number"
            for (1 - beta) / (1 - beta^n).
        beta: from 0 to below 1; used only for "effective_number".

    Returns:
        The weights; a class without images has the weight of a class with one image.

    References:
        Cui et al. 2019, Class-balanced loss based on effective number of samples
        (arXiv:1901.05555), equation 2.
    """
    counts = np.maximum(np.bincount(class_indices, minlength=classes), 1)
    weights = 1.0 / counts if kind == "inverse" else (1.0 - beta) / (1.0 - beta**counts)
    return np.asarray(weights, np.float32)


class BalancedOrder:
    """An order of the images in which every class appears equally often.

    If the split has N images of K classes, an epoch has N images too, N / K of each class, rounded
    up or down. Each class has an endless sequence of its images, one random permutation after
    another, and each epoch takes the next N / K images of this sequence. All images of a class are
    therefore used equally often: images of a rare class several times in an epoch, and images of a
    frequent class once in several epochs. Like every order of the pipeline, this order depends on
    (seed, epoch, index) alone.
    """

    def __init__(self, class_indices: np.ndarray) -> None:
        """Sort the images by class.

        Args:
            class_indices: the class of each image, int [N].
        """
        _, counts = np.unique(class_indices, return_counts=True)
        with tf.device("CPU"):
            self._members = tf.constant(np.argsort(class_indices, kind="stable"), tf.int64)
            self._counts = tf.constant(counts, tf.int64)
            self._starts = tf.constant(np.cumsum(counts) - counts, tf.int64)
        self._size, self._classes = len(class_indices), len(counts)

    def at(self, indices: tf.Tensor, seed: int, epoch: tf.Tensor) -> tf.Tensor:
        """Return which images are at these indices of an epoch: int64 [M] -> int64 [M]."""
        slots = permute(indices, self._size, seed, epoch)
        classes = slots % self._classes
        key = tf.constant(seed, tf.int64)
        quotient, remainder = divmod(self._size, self._classes)
        per_epoch = quotient + tf.cast(classes < remainder, tf.int64)
        # The index in the endless sequence of the class.
        sequence = slots // self._classes + tf.cast(epoch, tf.int64) * per_epoch
        counts = tf.gather(self._counts, classes)
        seeds = tf.stack([tf.fill(tf.shape(classes), key), sequence // counts, classes + 1], axis=1)
        # tf.random.experimental.index_shuffle would pad a matrix of seeds along the wrong axis
        # (TensorFlow 2.21).
        ranks = tf.raw_ops.RandomIndexShuffle(
            index=sequence % counts, seed=seeds, max_index=counts - 1, rounds=_ROUNDS
        )
        return tf.gather(self._members, tf.gather(self._starts, classes) + ranks)
