"""Random changes of one training image, before images become a batch."""

import tensorflow as tf

from keras_cnns.data.augmentation.rand_augment import rand_augment
from keras_cnns.data.preprocessing import preprocess, to_channels
from keras_cnns.recipes import AugmentationConfig, Preprocessing

KEYS = 8  # seeds per image, of two numbers each: crop (1), jitter (3), RandAugment (1), unused (3)


def bring_to_size(
    image: tf.Tensor, preprocessing: Preprocessing, config: AugmentationConfig, keys: tf.Tensor
) -> tf.Tensor:
    """Resize an image and crop its centre, or take a random Inception crop of it.

    Raw pixels [h, w, c] -> uint8 [H, W, C].
    """
    if config.inception_crop:
        cropped = inception_crop(image, preprocessing.size, keys[0])
        return to_channels(cropped, preprocessing.channels)
    return preprocess(image, preprocessing)


def changes_colors(config: AugmentationConfig) -> bool:
    """Return whether `change_colors` changes images with this configuration."""
    return bool(config.color_jitter or config.rand_augment_num_ops)


def change_colors(image: tf.Tensor, config: AugmentationConfig, keys: tf.Tensor) -> tf.Tensor:
    """Jitter colours and apply RandAugment, as configured: uint8 [H, W, C] -> uint8 [H, W, C]."""
    if config.color_jitter:
        image = jitter_colors(image, config.color_jitter, keys[1:4])
    if config.rand_augment_num_ops:
        layers, magnitude = config.rand_augment_num_ops, config.rand_augment_magnitude
        image = rand_augment(image, layers, magnitude, keys[4])
    return image


def inception_crop(image: tf.Tensor, size: tuple[int, int], key: tf.Tensor) -> tf.Tensor:
    """Crop a random rectangle of an image, and resize it: [h, w, c] -> [H, W, c].

    The rectangle has 8 to 100 % of the image's area, and an aspect ratio from 3/4 to 4/3.

    Args:
        image: uint8 pixels.
        size: H and W.
        key: a seed, int32 [2].

    References:
        Szegedy et al. 2014, Going deeper with convolutions (arXiv:1409.4842), section 6.
    """
    whole = tf.constant([[[0.0, 0.0, 1.0, 1.0]]])
    start, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image),
        whole,
        seed=key,
        min_object_covered=0.0,  # the default would reject crops below a tenth of the area
        area_range=(0.08, 1.0),
        aspect_ratio_range=(3 / 4, 4 / 3),
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    channels = image.shape[-1]
    cropped = tf.ensure_shape(tf.slice(image, start, extent), (None, None, channels))
    resized = tf.image.resize(cropped, size, method="bilinear", antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)


def jitter_colors(image: tf.Tensor, strength: float, keys: tf.Tensor) -> tf.Tensor:
    """Change brightness, contrast and, if RGB, saturation: uint8 [H, W, C] -> uint8 [H, W, C].

    Args:
        image: pixels.
        strength: contrast and saturation are multiplied by a number from 1 - strength to 1 +
            strength, and a number from -strength * 255 to strength * 255 is added to the levels.
        keys: three seeds, int32 [3, 2].
    """
    pixels = tf.cast(image, tf.float32) / 255
    pixels = tf.image.stateless_random_brightness(pixels, strength, keys[0])
    low, high = 1 - strength, 1 + strength
    pixels = tf.image.stateless_random_contrast(pixels, low, high, keys[1])
    if image.shape[-1] == 3:
        pixels = tf.clip_by_value(pixels, 0, 1)
        pixels = tf.image.stateless_random_saturation(pixels, low, high, keys[2])
    return tf.cast(tf.round(tf.clip_by_value(pixels, 0, 1) * 255), tf.uint8)
