"""Random changes of a whole batch of training images."""

import numpy as np
import tensorflow as tf

from keras_cnns.data.augmentation.mixing import inside_rectangle, mix, smooth
from keras_cnns.data.augmentation.randomness import NOISE_STREAM, Start, draw_uniform
from keras_cnns.recipes import AugmentationConfig

_DRAWS = 12  # random numbers per image: shift and flip (3), erasing (5), mixing (4)


def augment_batch(
    images: tf.Tensor,
    labels: tf.Tensor,
    config: AugmentationConfig,
    start: Start,
    *,
    classes: int | None,
    class_weights: np.ndarray | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Apply the configured augmentations that change a whole batch at once.

    Args:
        images: uint8 [N, H, W, C].
        labels: int64 [N].
        config: the augmentation; mixing needs `classes`.
        start: the seed, the epoch and the index of the batch's first image, which determine all
            random numbers.
        classes: the number of classes, K, of the targets; if None, labels are returned instead.
        class_weights: float32 [K]; each target is multiplied by the weight of its class before
            mixing. The weight of a mixed image is therefore lambda * w1 + (1 - lambda) * w2, where
            w1 and w2 are the weights of the two images.
    """
    count = tf.shape(labels)[0]
    draws = draw_uniform(start, count, _DRAWS)
    if config.pad_and_crop or config.horizontal_flip:
        images = shift_and_flip(
            images, draws[:, :3], padding=config.pad_and_crop, flip=config.horizontal_flip
        )
    if config.random_erasing:
        size = images[0].shape.num_elements()
        noise = draw_uniform(start, count, size, stream=NOISE_STREAM)
        noise = tf.cast(tf.reshape(noise * 256, tf.shape(images)), tf.uint8)
        images = erase(images, draws[:, 3:8], noise, probability=config.random_erasing)
    if classes is None:
        return images, labels
    targets = smooth(labels, classes, config.label_smoothing)
    if class_weights is not None:
        targets *= tf.gather(tf.constant(class_weights), labels)[:, None]
    if not mixes_images(config):
        return images, targets
    return mix(
        images,
        targets,
        draws[:, 8:12],
        mixup_alpha=config.mixup_alpha,
        cutmix_alpha=config.cutmix_alpha,
    )


def mixes_images(config: AugmentationConfig) -> bool:
    """Return whether each image is mixed with the next image of the epoch."""
    return bool(config.mixup_alpha or config.cutmix_alpha)


def shift_and_flip(
    images: tf.Tensor, draws: tf.Tensor, *, padding: int = 0, flip: bool = False
) -> tf.Tensor:
    """Pad with zeros, crop at random, mirror half of the images (He et al. 2015, section 4.2).

    Args:
        images: pixels [N, H, W, C].
        draws: random numbers in [0, 1), [N, 3]: vertical shift, horizontal shift, mirroring.
        padding: pixels on each side.
        flip: whether to mirror half of the images.
    """
    _, height, width, _ = images.shape
    padded = tf.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    corner = tf.cast(draws[:, :2] * (2 * padding + 1), tf.int32)
    rows, columns = tf.range(height)[None], tf.range(width)[None]
    if flip:
        columns = tf.where(draws[:, 2:3] < 0.5, columns, columns[:, ::-1])
    cropped = tf.gather(padded, rows + corner[:, :1], axis=1, batch_dims=1)
    return tf.gather(cropped, columns + corner[:, 1:2], axis=2, batch_dims=1)


def erase(
    images: tf.Tensor, draws: tf.Tensor, noise: tf.Tensor, *, probability: float
) -> tf.Tensor:
    """Fill a random rectangle of an image with noise: [N, H, W, C] -> [N, H, W, C].

    The rectangle has 2 to 40 % of the image's area, and an aspect ratio from 0.3 to 1/0.3.

    Args:
        images: pixels [N, H, W, C].
        draws: random numbers in [0, 1), [N, 5]: whether to erase, area, aspect ratio, and the
            rectangle's vertical and horizontal position.
        noise: the pixels that fill the rectangle, in the shape of `images`.
        probability: the probability that a rectangle of an image is filled.

    References:
        Zhong et al. 2017, Random erasing data augmentation (arXiv:1708.04896), table 1, RE-R.
    """
    area = 0.02 + draws[:, 1] * (0.4 - 0.02)
    ratio = tf.exp((2 * draws[:, 2] - 1) * tf.math.log(1 / 0.3))
    # The sides as fractions of the image's height and width; sides longer than 1 are cut to 1.
    sides = tf.minimum(tf.sqrt(tf.stack([area * ratio, area / ratio], axis=1)), 1.0)
    corner = draws[:, 3:5] * (1 - sides)
    inside = inside_rectangle(images, corner, corner + sides)
    chosen = (draws[:, 0] < probability)[:, None, None, None]
    return tf.where(inside & chosen, noise, images)
