"""TensorFlow's reading of the preprocessing that a model.json describes."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf


def preprocess(image: tf.Tensor, preprocessing: Mapping[str, Any]) -> tf.Tensor:
    """Resize the shorter side, crop the middle: uint8 [h, w, c] -> uint8 [H, W, C].

    Args:
        image: raw pixels, grey or RGB.
        preprocessing: `resize_shorter` and `crop` in pixels, `interpolation`, `antialias`,
            and `channels`, 1 for grey and 3 for RGB.
    """
    image = tf.convert_to_tensor(image)
    channels, crop = preprocessing["channels"], preprocessing["crop"]
    height, width = (crop, crop) if isinstance(crop, int) else crop
    image = to_channels(image, channels)
    if image.shape[:2] == (height, width) and height == width == preprocessing["resize_shorter"]:
        return image

    sides = tf.cast(tf.shape(image)[:2], tf.float32)
    scale = preprocessing["resize_shorter"] / tf.reduce_min(sides)
    resized = tf.cast(tf.round(sides * scale), tf.int32)
    image = tf.image.resize(
        image,
        resized,
        method=preprocessing["interpolation"],
        antialias=preprocessing["antialias"],
    )
    image = tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
    top, left = (resized[0] - height) // 2, (resized[1] - width) // 2
    image = tf.image.crop_to_bounding_box(image, top, left, height, width)
    return tf.ensure_shape(image, (height, width, channels))


def to_channels(image: tf.Tensor, channels: int) -> tf.Tensor:
    """Make grey of RGB, exactly as Pillow does, or the reverse: uint8 [..., c] -> [..., C]."""
    if image.shape[-1] == 3 and channels == 1:
        parts = tf.cast(image, tf.int32) * [19595, 38470, 7471] + [0, 0, 2**15]
        return tf.cast(tf.reduce_sum(parts, axis=-1, keepdims=True) // 2**16, tf.uint8)
    return tf.image.grayscale_to_rgb(image) if image.shape[-1] < channels else image
