"""The batches of a split, epoch by epoch: the same ones whenever and wherever they are read.

The image at an index of an epoch, and its augmentation, depend on (seed, epoch, index) alone.
So training can resume from any step as if it had never stopped, without reading what came before.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from keras_cnns.cores import available_cores
from keras_cnns.data.augmentation import erase, shift_and_flip
from keras_cnns.data.autotuning import without_autotuning
from keras_cnns.data.decoding import decode
from keras_cnns.data.image_augmentation import KEYS, bring_to_size, change_colors
from keras_cnns.data.mixing import mix, smooth
from keras_cnns.data.preprocessing import preprocess
from keras_cnns.data.randomness import NOISE_STREAM, draw_keys, draw_uniform, permute
from keras_cnns.data.samples import Pair, Samples, Stream
from keras_cnns.recipes import AugmentationConfig, DataConfig

PIXELS_LIMIT = 2**29  # bytes of decoded images, at the network's size, that are kept in memory
PREFETCHED = 2  # batches that are ready before they are asked for
NO_AUGMENTATION = AugmentationConfig()
DRAWS = 12  # random numbers of an image: shift and mirror (3), erasing (5), mixing (4)
Batch = dict[str, Any]


def fits_in_memory(config: DataConfig, count: int) -> bool:
    """Return whether so many images, at the network's size, may be kept in memory."""
    return config.image_size**2 * config.channels * count <= PIXELS_LIMIT


@dataclass
class Decoded:
    """The decoded images of a split, which several `Split` objects may share."""

    pair: Pair | None = None  # images uint8 [all, H, W, C], labels int64 [all]; None: not yet read


class Split:
    """Batches of (images uint8 [N, H, W, C], labels int64 [N] or targets float32 [N, K]).

    An epoch's last batch may have fewer images than the others. Nothing is read or decoded before
    the first batches are asked for. Iterating over a split gives the batches of its first epoch; if
    its images are checked as they are read, the error for bad ones is a ValueError that lists them
    all. Datasets raise TensorFlow's error for the first of them.

    Attributes:
        samples: the number of images.
        steps: the number of batches in an epoch.
    """

    def __init__(
        self,
        samples: Samples | Stream,
        config: DataConfig,
        classes: int,
        *,
        batch_size: int,
        seed: int | None = None,
        augmentation: AugmentationConfig = NO_AUGMENTATION,
        one_hot: bool = False,
        decoded: Decoded | None = None,
        in_memory: bool = True,
    ) -> None:
        """Define the batches of a split.

        Args:
            samples: the images.
            config: the preprocessing that brings them to the network's size.
            classes: the number of classes, K.
            batch_size: images in a batch, N.
            seed: of the order and the augmentation; None keeps the order and augments nothing.
            augmentation: of the images; its label smoothing and mixing need one-hot targets.
            one_hot: give targets, not labels. Augmentation that needs targets always gives them.
            decoded: the decoded images of the same samples, shared with other splits.
            in_memory: decode all images at the first use and keep them, if they take at most
                `PIXELS_LIMIT` bytes; if False, decode each batch anew. Images that the source has
                kept are used in both cases.
        """
        self.samples = samples.count
        self.steps = -(-samples.count // batch_size)
        self._source, self._config, self._classes = samples, config, classes
        self._batch_size, self._seed = batch_size, seed
        self._augmentation = NO_AUGMENTATION if seed is None else augmentation
        self._one_hot = one_hot or self._augmentation.soft_targets
        self._mixes = bool(self._augmentation.mixup_alpha or self._augmentation.cutmix_alpha)
        # An Inception crop needs the images at their own size.
        is_kept = (
            isinstance(samples, Samples)
            and not self._augmentation.inception_crop
            and bool(samples.decoded or (in_memory and fits_in_memory(config, samples.count)))
        )
        self._decoded = (decoded or Decoded()) if is_kept else None

    def __iter__(self) -> Iterator[Pair]:
        try:
            yield from self.epoch(0)
        except tf.errors.OpError:
            if isinstance(self._source, Samples) and self._source.refuse:
                self._source.refuse()
            raise

    def epoch(self, number: int, start_step: int = 0) -> tf.data.Dataset:
        """Return the batches of one epoch, starting at one of its steps."""
        return self._steps(number * self.steps + start_step, self.steps - start_step)

    def steps_from(self, step: int = 0) -> tf.data.Dataset:
        """Return the batches of all epochs without end, starting at a step of the whole training.

        Step 0 is the first of the first epoch, number 0.
        """
        return self._steps(step, count=-1)

    def probe(self) -> tf.data.Dataset:
        """Return one batch that is always the same, of images as the training sees them.

        It is the first batch of the training. Of a stream it is in the order of the files instead:
        a shuffled batch would cost the thousands of images that fill the shuffle buffer.
        """
        split = self
        if isinstance(self._source, Stream):
            split = copy.copy(self)
            split._seed = None
        return split._steps(0, count=1)

    def _steps(self, first: int, count: int) -> tf.data.Dataset:
        """Return the batches of some steps, and read none beyond them; a count of -1 has no end."""
        if isinstance(self._source, Stream):
            batches = self._stream(self._source, first)
        else:
            batches = tf.data.Dataset.range(first, tf.int64.max).map(self._find)
        made = batches.take(count).map(self._make, num_parallel_calls=available_cores())
        return without_autotuning(made.prefetch(PREFETCHED))

    def _find(self, step: tf.Tensor) -> Batch:
        """Return a step's epoch, its first index in it, and the indices of its images."""
        epoch, first = step // self.steps, step % self.steps * self._batch_size
        count = tf.minimum(self.samples - first, self._batch_size)
        # An image is mixed with the next in the epoch's order, which may be in the next batch.
        places = (first + tf.range(count + self._mixes)) % self.samples
        if self._seed is not None:
            places = permute(places, self.samples, self._seed, epoch)
        return {"epoch": epoch, "first": first, "count": count, "samples": places}

    def _stream(self, stream: Stream, step: int) -> tf.data.Dataset:
        """Return batches of encoded images, starting at a step; each epoch has its own order."""

        def batches(epoch: tf.Tensor) -> tf.data.Dataset:
            # A shuffle's seed is a tensor here. Beside a global seed of 0, which this function's
            # graph would have from outside, TensorFlow asks whether it is 0 too, and fails.
            tf.random.set_seed(1)
            order = (
                None if self._seed is None else tf.stack([tf.constant(self._seed, tf.int64), epoch])
            )
            begun = epoch == step // self.steps
            skipped = tf.where(begun, tf.constant(step % self.steps, tf.int64), 0)
            samples = stream.encoded(order, skipped * self._batch_size)

            def describe(number: tf.Tensor, encoded: Pair) -> Batch:
                first = (number + skipped) * self._batch_size
                count = tf.shape(encoded[1], tf.int64)[0]
                return {"epoch": epoch, "first": first, "count": count, "samples": encoded}

            return samples.batch(self._batch_size).enumerate().map(describe)

        return tf.data.Dataset.range(step // self.steps, tf.int64.max).flat_map(batches)

    def _make(self, batch: Batch) -> Pair:
        """Read a batch's images and augment them."""
        where = self._seed or 0, batch["epoch"], batch["first"]
        images, labels = self._read(batch["samples"], where)
        config = self._augmentation
        draws = draw_uniform(*where, tf.shape(labels)[0], DRAWS)
        if config.pad_and_crop or config.horizontal_flip:
            images = shift_and_flip(
                images, draws[:, :3], padding=config.pad_and_crop, flip=config.horizontal_flip
            )
        if config.random_erasing:
            levels = images[0].shape.num_elements()
            noise = draw_uniform(*where, tf.shape(labels)[0], levels, stream=NOISE_STREAM)
            noise = tf.cast(tf.reshape(noise * 256, tf.shape(images)), tf.uint8)
            images = erase(images, draws[:, 3:8], noise, probability=config.random_erasing)
        if self._one_hot:
            labels = smooth(labels, self._classes, config.label_smoothing)
        if self._mixes:
            images, labels = mix(
                images,
                labels,
                draws[:, 8:12],
                mixup_alpha=config.mixup_alpha,
                cutmix_alpha=config.cutmix_alpha,
            )
        return images[: batch["count"]], labels[: batch["count"]]

    def _read(self, samples: Any, where: tuple[Any, Any, Any]) -> Pair:
        """Return the images, at the network's size, and the labels of a batch."""
        config = self._augmentation
        if self._decoded is not None:
            images, labels = self._gather(self._decoded, samples)
            if not (config.color_jitter or config.rand_augment_num_ops):
                return images, labels
            samples = images, labels
        count = tf.shape(tf.nest.flatten(samples)[0])[0]

        def one(element: tuple[Any, tf.Tensor]) -> Pair:
            sample, keys = element
            if self._decoded is not None:
                image, label = sample
            else:
                if isinstance(self._source, Stream):
                    image, label = decode(sample[0]), sample[1]
                else:
                    image, label = self._source.read(sample)
                image = bring_to_size(image, self._config.preprocessing(), config, keys)
            return change_colors(image, config, keys), label

        shape = (self._config.image_size, self._config.image_size, self._config.channels)
        images, labels = tf.map_fn(
            one,
            (samples, draw_keys(*where, count, KEYS)),
            fn_output_signature=(tf.TensorSpec(shape, tf.uint8), tf.TensorSpec((), tf.int64)),
        )
        return images, labels

    def _gather(self, decoded: Decoded, numbers: tf.Tensor) -> Pair:
        """Return images and their labels from memory; the first call decodes those of the split."""
        assert isinstance(self._source, Samples)  # the images of a stream are not kept
        if self._source.decoded:
            return self._source.decoded(numbers)
        if decoded.pair is None:
            with tf.init_scope():  # a pipeline that reads them is being traced
                decoded.pair = self._read_all(self._source)
        images, labels = decoded.pair
        return tf.gather(images, numbers), tf.gather(labels, numbers)

    def _read_all(self, samples: Samples) -> Pair:
        """Decode all images to the network's size; return them and their labels."""

        def prepare(number: tf.Tensor) -> Pair:
            image, label = samples.read(number)
            return preprocess(image, self._config.preprocessing()), label

        numbers = tf.data.Dataset.range(samples.count)
        prepared = numbers.map(prepare, num_parallel_calls=available_cores())
        images, labels = next(iter(without_autotuning(prepared.batch(samples.count))))
        return images, labels
