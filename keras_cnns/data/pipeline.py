"""The batches of a split, epoch by epoch, which can be reproduced exactly.

The image at an index of an epoch, and its augmentation, depend on (seed, epoch, index) alone.
Training can therefore resume from any step as if it had never stopped, without reading earlier
images.
"""

import abc
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_cnns.cores import available_cores
from keras_cnns.data.augmentation.batch import augment_batch, mixes_images
from keras_cnns.data.augmentation.image import KEYS, bring_to_size, change_colors, changes_colors
from keras_cnns.data.augmentation.randomness import Start, draw_keys, permute
from keras_cnns.data.autotuning import without_autotuning
from keras_cnns.data.class_balance import BalancedOrder
from keras_cnns.data.decoding import decode
from keras_cnns.data.preprocessing import preprocess
from keras_cnns.data.sources.base import ImageStream, IndexedImages, Pair
from keras_cnns.recipes import AugmentationConfig, DataConfig

PREFETCHED = 2  # number of batches that are prepared before they are requested
NO_AUGMENTATION = AugmentationConfig()
# The keys are:
# `epoch`: int64 [].
# `first`: the index, in the epoch, of the first image that is read.
# `elements`: the input of `_read`.
# `skipped`: the number of images at the beginning that do not belong to the part.
# `count`: the number of images of the part.
# `total`: the number of images of all parts.
_Batch = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """The part of each batch that one of several processes reads.

    A batch whose number of images is a multiple of `divisor` is divided into equal parts of
    consecutive images. Any other batch, such as the last batch of an epoch, is read completely by
    every process. With several parts, batches have a third element, int64 [N], which contains the
    number of images of the whole batch, once for each image. This number shows whether the batch
    was divided.

    Attributes:
        index: the index of the part, from 0.
        parts: the number of parts.
        divisor: the number of devices of all processes, a multiple of `parts`.
    """

    index: int = 0
    parts: int = 1
    divisor: int = 1

    def of(self, count: Any) -> tuple[Any, Any]:
        """Return the first index of the part in a batch of `count` images, and its length."""
        is_divided = count % self.divisor == 0
        size = tf.where(is_divided, count // self.parts, count)
        return tf.where(is_divided, self.index * size, tf.zeros_like(size)), size


_WHOLE = Part()


class Split(abc.ABC):
    """Batches of (images uint8 [N, H, W, C], labels int64 [N] or targets float32 [N, K]).

    An epoch's last batch may have fewer images than the others. Nothing is read or decoded before
    the first batches are requested. Iterating over a split yields the batches of its first epoch.
    If the images are checked as they are read, the iteration raises a ValueError that lists all bad
    images, while the datasets that the methods return raise TensorFlow's error for the first bad
    image.

    Attributes:
        num_examples: the number of images.
        steps: the number of batches in an epoch.
        path_of: a function that returns the file of the image at an index of the split, without
            reading the file; None if the images are not separate files. Without a seed, the images
            in the batches have the order of these indices.
    """

    path_of: Callable[[int], Path] | None = None

    def __init__(
        self,
        count: int,
        config: DataConfig,
        classes: int,
        *,
        batch_size: int,
        seed: int | None = None,
        augmentation: AugmentationConfig = NO_AUGMENTATION,
        class_weights: np.ndarray | None = None,
        order: BalancedOrder | None = None,
        one_hot: bool = False,
        part: Part = _WHOLE,
    ) -> None:
        """Define the batches of a split.

        Args:
            count: the number of images.
            config: the preprocessing that brings the images to the network's size.
            classes: the number of classes, K.
            batch_size: the number of images in a batch, N.
            seed: the seed of the order and the augmentation; None keeps the order and augments
                nothing.
            augmentation: the augmentation of the images. An Inception crop is impossible if the
                images are kept in memory, because these images already have the network's size.
            class_weights: float32 [K]; the target of an image is multiplied by the weight of its
                class, and then sums to this weight.
            order: the order of the images in each epoch; by default, each image appears once, in
                random order. Streams support only this default order.
            one_hot: return targets instead of labels; with label smoothing or mixing, targets are
                always returned.
            part: the part of each batch that is read; by default the whole batch.
        """
        self.num_examples = count
        self.steps = -(-count // batch_size)
        self._config, self._classes = config, classes
        self._batch_size, self._seed = batch_size, seed
        self._augmentation = NO_AUGMENTATION if seed is None else augmentation
        self._class_weights, self._order, self._part = class_weights, order, part
        self._one_hot = one_hot or self._augmentation.soft_targets or class_weights is not None

    def __iter__(self) -> Iterator[Pair]:
        yield from self.epoch(0)

    def epoch(self, number: int, start_step: int = 0) -> tf.data.Dataset:
        """Return the batches of one epoch, starting at one of its steps."""
        return self._steps(number * self.steps + start_step, self.steps - start_step)

    def steps_from(self, step: int = 0) -> tf.data.Dataset:
        """Return an endless dataset of the batches of all epochs, beginning at a step.

        Steps are counted over all epochs: step 0 is the first step of epoch 0.
        """
        return self._steps(step, count=-1)

    def probe(self) -> tf.data.Dataset:
        """Return one batch of training images, which is the same in every call.

        This is the first batch of the training or, for a stream, the first batch in the order of
        the files, because a shuffled batch would require reading the thousands of images that fill
        the shuffle buffer. It is a whole batch even if the split reads only a part of each batch.
        """
        whole = copy.copy(self)
        whole._part = _WHOLE
        return whole._steps(0, count=1)

    def _steps(self, first: int, count: int) -> tf.data.Dataset:
        """Return the batches of `count` steps (-1: endless), without reading later batches."""
        batches = self._batches(first).take(count)
        made = batches.map(self._make, num_parallel_calls=available_cores())
        return without_autotuning(made.prefetch(PREFETCHED))

    def _make(self, batch: _Batch) -> tuple[Any, ...]:
        """Read the images of a batch and augment them."""
        start = Start(self._seed or 0, batch["epoch"], batch["first"])
        images, labels = augment_batch(
            *self._read(batch["elements"], start),
            self._augmentation,
            start,
            classes=self._classes if self._one_hot else None,
            class_weights=self._class_weights,
        )
        start_of_part, count = batch["skipped"], batch["count"]
        end = start_of_part + count
        if self._part.parts == 1:
            return images[:count], labels[:count]
        total = tf.fill([count], batch["total"])
        return images[start_of_part:end], labels[start_of_part:end], total

    @abc.abstractmethod
    def _batches(self, first: int) -> tf.data.Dataset:
        """Return an endless dataset of the batches that `_read` reads, beginning at a step."""

    @abc.abstractmethod
    def _read(self, elements: Any, start: Start) -> Pair:
        """Return the images of a batch, at the network's size, and their labels."""

    def _map(
        self, read: Callable[[Any, tf.Tensor], Pair], elements: Any, count: tf.Tensor, start: Start
    ) -> Pair:
        """Read each of `count` elements with `read(element, keys)`, and augment its colours."""

        def read_one(element: tuple[Any, tf.Tensor]) -> Pair:
            image, label = read(*element)
            return change_colors(image, self._augmentation, element[1]), label

        shape = (self._config.image_size, self._config.image_size, self._config.channels)
        images, labels = tf.map_fn(
            read_one,
            (elements, draw_keys(start, count, KEYS)),
            fn_output_signature=(tf.TensorSpec(shape, tf.uint8), tf.TensorSpec((), tf.int64)),
        )
        return images, labels

    def _bring_to_size(self, image: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        return bring_to_size(image, self._config.preprocessing(), self._augmentation, keys)


class _IndexedSplit(Split):
    """Batches of images that can be read in any order."""

    def __init__(self, images: IndexedImages, *arguments: Any, **options: Any) -> None:
        super().__init__(images.count, *arguments, **options)
        self._images = images
        self.path_of = images.path_of

    def __iter__(self) -> Iterator[Pair]:
        try:
            yield from super().__iter__()
        except tf.errors.OpError:
            if self._images.check_rest:
                self._images.check_rest()
            raise

    def _batches(self, first: int) -> tf.data.Dataset:
        return tf.data.Dataset.range(first, tf.int64.max).map(self._find)

    def _find(self, step: tf.Tensor) -> _Batch:
        """Return the `_Batch` of a step; its elements are the indices of the images."""
        epoch, first = step // self.steps, step % self.steps * self._batch_size
        total = tf.minimum(self.num_examples - first, self._batch_size)
        offset, count = self._part.of(total)
        first += offset
        # An image is mixed with the next image of the epoch, which may be in the next batch.
        indices = (first + tf.range(count + mixes_images(self._augmentation))) % self.num_examples
        if self._order is not None and self._seed is not None:
            indices = self._order.at(indices, self._seed, epoch)
        elif self._seed is not None:
            indices = permute(indices, self.num_examples, self._seed, epoch)
        return {
            "epoch": epoch,
            "first": first,
            "skipped": tf.zeros_like(offset),
            "count": count,
            "total": total,
            "elements": indices,
        }

    def _read(self, indices: tf.Tensor, start: Start) -> Pair:
        count = tf.shape(indices)[0]
        if self._images.gather is None:

            def read(index: tf.Tensor, keys: tf.Tensor) -> Pair:
                image, label = self._images.read(index)
                return self._bring_to_size(image, keys), label

            return self._map(read, indices, count, start)
        kept = self._images.gather(indices)
        if changes_colors(self._augmentation):
            return self._map(lambda pair, _: pair, kept, count, start)
        return kept


class _StreamedSplit(Split):
    """Batches of images that are read from files in order."""

    def __init__(self, stream: ImageStream, *arguments: Any, **options: Any) -> None:
        super().__init__(stream.count, *arguments, **options)
        self._stream = stream

    def probe(self) -> tf.data.Dataset:
        """Return the first batch in the order of the files, which is the same in every call."""
        unshuffled = copy.copy(self)
        unshuffled._seed, unshuffled._part = None, _WHOLE
        return unshuffled._steps(0, count=1)

    def _batches(self, first: int) -> tf.data.Dataset:
        """Return batches of encoded images; each epoch has its own order."""

        def batches(epoch: tf.Tensor) -> tf.data.Dataset:
            # The seed of the shuffle is a tensor here. If the graph of this function inherited a
            # global seed of 0, TensorFlow would try to test whether this tensor is 0 too, and fail.
            tf.random.set_seed(1)
            order = (
                None if self._seed is None else tf.stack([tf.constant(self._seed, tf.int64), epoch])
            )
            is_first_epoch = epoch == first // self.steps
            skipped = tf.where(is_first_epoch, tf.constant(first % self.steps, tf.int64), 0)
            images = self._stream.encoded(order, skipped * self._batch_size)

            def describe(batch: tf.Tensor, encoded: Pair) -> _Batch:
                index = (batch + skipped) * self._batch_size
                total = tf.shape(encoded[1], tf.int64)[0]
                offset, count = self._part.of(total)
                skipped_here = tf.zeros_like(offset)
                if mixes_images(self._augmentation):
                    # Each augmented image is mixed with the next image of the batch, and the last
                    # with the first, so every part needs the whole batch.
                    offset, skipped_here = skipped_here, offset
                elif self._part.parts > 1:
                    end = offset + count
                    encoded = (encoded[0][offset:end], encoded[1][offset:end])
                return {
                    "epoch": epoch,
                    "first": index + offset,
                    "skipped": skipped_here,
                    "count": count,
                    "total": total,
                    "elements": encoded,
                }

            return images.batch(self._batch_size).enumerate().map(describe)

        return tf.data.Dataset.range(first // self.steps, tf.int64.max).flat_map(batches)

    def _read(self, encoded: Pair, start: Start) -> Pair:
        def read(pair: Pair, keys: tf.Tensor) -> Pair:
            return self._bring_to_size(decode(pair[0]), keys), pair[1]

        return self._map(read, encoded, tf.shape(encoded[0])[0], start)


def make_split(
    images: IndexedImages | ImageStream, config: DataConfig, classes: int, **options: Any
) -> Split:
    """Define the batches of a split; `Split` describes the arguments."""
    if isinstance(images, IndexedImages):
        return _IndexedSplit(images, config, classes, **options)
    return _StreamedSplit(images, config, classes, **options)


def keep_in_memory(images: IndexedImages, config: DataConfig) -> Callable[[tf.Tensor], Pair]:
    """Return a function for `IndexedImages.gather`; its first call decodes and keeps all images."""
    kept: list[Pair] = []

    def gather(indices: tf.Tensor) -> Pair:
        if not kept:
            with tf.init_scope():  # run outside the graph of the pipeline, which is being traced
                kept.append(_decode_all(images, config))
        pixels, labels = kept[0]
        return tf.gather(pixels, indices), tf.gather(labels, indices)

    return gather


def _decode_all(images: IndexedImages, config: DataConfig) -> Pair:
    """Decode all images to the network's size: return uint8 [all, H, W, C] and int64 [all]."""

    def prepare(index: tf.Tensor) -> Pair:
        image, label = images.read(index)
        return preprocess(image, config.preprocessing()), label

    indices = tf.data.Dataset.range(images.count)
    prepared = indices.map(prepare, num_parallel_calls=available_cores())
    pixels, labels = next(iter(without_autotuning(prepared.batch(images.count))))
    return pixels, labels
