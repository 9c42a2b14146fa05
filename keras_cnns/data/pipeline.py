"""A split as the batches of its epochs, the same ones whenever and wherever they are asked for.

What stands at a place of an epoch, and how it is augmented, depends on (seed, epoch, place) alone.
So training can go on from any step as if it had never stopped, without reading what came before.
"""

from typing import Any

import tensorflow as tf

from keras_cnns.data.augmentation import erase, shift_and_flip
from keras_cnns.data.decoding import decode
from keras_cnns.data.image_augmentation import KEYS, bring_to_size, change_colors
from keras_cnns.data.mixing import mix, smooth
from keras_cnns.data.preprocessing import preprocess
from keras_cnns.data.randomness import NOISE_STREAM, draw_keys, draw_uniform, permute
from keras_cnns.data.samples import Pair, Samples, Stream
from keras_cnns.recipes import AugmentationConfig, DataConfig

PIXELS_LIMIT = 2**29  # bytes of pixels, ready for the net, that are kept in memory
NO_AUGMENTATION = AugmentationConfig()
DRAWS = 12  # random numbers of an image: shift and mirror (3), erasing (5), mixing (4)
Batch = dict[str, Any]


class Split:
    """Batches of (images uint8 [N, H, W, C], labels int64 [N] or targets float32 [N, K]).

    An epoch's last batch may have fewer images than the others.

    Attributes:
        samples: how many images there are.
        steps: how many batches an epoch has.
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
    ) -> None:
        """Make batches of samples.

        Args:
            samples: the images.
            config: how they are brought to the net's size.
            classes: how many there are, K.
            batch_size: images in a batch, N.
            seed: of the order and the augmentation; None keeps the samples as and where they are.
            augmentation: what happens to the images.
            one_hot: give targets, not labels; augmentation that mixes them does so in any case.
        """
        self.samples = samples.count
        self.steps = -(-samples.count // batch_size)
        self._source, self._config, self._classes = samples, config, classes
        self._batch_size, self._seed = batch_size, seed
        self._augmentation = NO_AUGMENTATION if seed is None else augmentation
        self._one_hot = one_hot or self._augmentation.soft_targets
        self._mixes = bool(self._augmentation.mixup_alpha or self._augmentation.cutmix_alpha)
        self._pixels: Pair | None = None
        fits = config.image_size**2 * config.channels * samples.count <= PIXELS_LIMIT
        # An Inception crop needs the images at their own size.
        if isinstance(samples, Samples) and fits and not self._augmentation.inception_crop:
            self._pixels = self._read_all(samples)

    def epoch(self, number: int, start_step: int = 0) -> tf.data.Dataset:
        """Return the batches of one epoch, from a step on."""
        batches = self.steps_from(number * self.steps + start_step)
        return batches.take(self.steps - start_step)

    def steps_from(self, step: int = 0) -> tf.data.Dataset:
        """Return the batches from a step on, counted from the first epoch's first, without end."""
        if isinstance(self._source, Stream):
            batches = self._stream(self._source, step)
        else:
            batches = tf.data.Dataset.range(step, tf.int64.max).map(self._find)
        return batches.map(self._make, num_parallel_calls=tf.data.AUTOTUNE).prefetch(
            tf.data.AUTOTUNE
        )

    def _find(self, step: tf.Tensor) -> Batch:
        """Return a step's epoch, its first place in it, and the numbers of its samples."""
        epoch, first = step // self.steps, step % self.steps * self._batch_size
        count = tf.minimum(self.samples - first, self._batch_size)
        # An image is mixed with the next in the epoch's order, which may be in the next batch.
        places = (first + tf.range(count + self._mixes)) % self.samples
        if self._seed is not None:
            places = permute(places, self.samples, self._seed, epoch)
        return {"epoch": epoch, "first": first, "count": count, "samples": places}

    def _stream(self, stream: Stream, step: int) -> tf.data.Dataset:
        """Return batches of encoded images, from a step on; an epoch's images come in its order."""

        def batches(epoch: tf.Tensor) -> tf.data.Dataset:
            # A shuffle's seed is a tensor here. Beside a global seed of 0, which this function's
            # graph would have from outside, TensorFlow asks whether it is 0 too, and fails.
            tf.random.set_seed(1)
            order = (
                None if self._seed is None else tf.stack([tf.constant(self._seed, tf.int64), epoch])
            )
            begun = epoch == step // self.steps
            skipped = tf.where(begun, tf.constant(step % self.steps, tf.int64), 0)
            samples = stream.encoded(order).skip(skipped * self._batch_size)

            def describe(number: tf.Tensor, encoded: Pair) -> Batch:
                first = (number + skipped) * self._batch_size
                count = tf.shape(encoded[1], tf.int64)[0]
                return {"epoch": epoch, "first": first, "count": count, "samples": encoded}

            return samples.batch(self._batch_size).enumerate().map(describe)

        return tf.data.Dataset.range(step // self.steps, tf.int64.max).flat_map(batches)

    def _make(self, batch: Batch) -> Pair:
        """Read a batch's samples and augment them."""
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
        """Return the images, at the net's size, and labels of a batch's samples."""
        config = self._augmentation
        if self._pixels is not None:
            images, labels = (tf.gather(values, samples) for values in self._pixels)
            if not (config.color_jitter or config.rand_augment_layers):
                return images, labels
            samples = images, labels
        count = tf.shape(tf.nest.flatten(samples)[0])[0]

        def one(element: tuple[Any, tf.Tensor]) -> Pair:
            sample, keys = element
            if self._pixels is not None:
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

    def _read_all(self, samples: Samples) -> Pair:
        """Return all images, at the net's size, and labels."""

        def prepare(number: tf.Tensor) -> Pair:
            image, label = samples.read(number)
            return preprocess(image, self._config.preprocessing()), label

        numbers = tf.data.Dataset.range(samples.count)
        prepared = numbers.map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
        images, labels = next(iter(prepared.batch(samples.count)))
        return images, labels
