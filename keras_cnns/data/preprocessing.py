"""The preprocessing that model.json describes, in TensorFlow."""

import tensorflow as tf

from keras_cnns.recipes import Preprocessing

_KERNELS = {"bilinear": "triangle"}  # interpolation -> its name in ScaleAndTranslate


def preprocess(image: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """Resize the shorter side and crop the centre: uint8 [h, w, c] -> uint8 [H, W, C].

    Only the pixels of the crop are computed. An image of 1 x 50,000,000 pixels therefore takes no
    longer than other images.

    Args:
        image: raw pixels, grey or RGB.
        preprocessing: the sizes, the interpolation and the channels.
    """
    image = tf.convert_to_tensor(image)
    height, width = preprocessing.size
    image = to_channels(image, preprocessing.channels)
    if image.shape[:2] == (height, width) and height == width == preprocessing.resize_shorter:
        return image

    # Float64 is exact, and rounds halves as Python does.
    sides = tf.cast(tf.shape(image)[:2], tf.float64)
    resized = tf.round(sides * preprocessing.resize_shorter / tf.reduce_min(sides))
    corner = (tf.cast(resized, tf.int32) - (height, width)) // 2
    cropped = tf.raw_ops.ScaleAndTranslate(
        images=tf.cast(image, tf.float32)[tf.newaxis],
        size=(height, width),
        scale=tf.cast(resized / sides, tf.float32),
        translation=-tf.cast(corner, tf.float32),
        kernel_type=_KERNELS[preprocessing.interpolation],
        antialias=preprocessing.antialias,
    )
    pixels = tf.cast(tf.clip_by_value(tf.round(cropped[0]), 0, 255), tf.uint8)
    return tf.ensure_shape(pixels, (height, width, preprocessing.channels))


def to_channels(image: tf.Tensor, channels: int) -> tf.Tensor:
    """Convert RGB to grey, exactly as Pillow does, or grey to RGB: uint8 [..., c] -> [..., C]."""
    if image.shape[-1] == 3 and channels == 1:
        parts = tf.cast(image, tf.int32) * [19595, 38470, 7471] + [0, 0, 2**15]
        return tf.cast(tf.reduce_sum(parts, axis=-1, keepdims=True) // 2**16, tf.uint8)
    return tf.image.grayscale_to_rgb(image) if image.shape[-1] < channels else image
