"""TensorFlow's reading of the preprocessing that a model.json describes."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

KERNELS = {"bilinear": "triangle"}  # interpolation -> what ScaleAndTranslate calls it


def preprocess(image: tf.Tensor, preprocessing: Mapping[str, Any]) -> tf.Tensor:
    """Resize the shorter side, crop the middle: uint8 [h, w, c] -> uint8 [H, W, C].

    Computes only what the crop keeps, so that an image of 1 x 50,000,000 costs no more.

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

    sides = tf.cast(tf.shape(image)[:2], tf.float64)  # exact, so that a half rounds as in Python
    resized = tf.round(sides * preprocessing["resize_shorter"] / tf.reduce_min(sides))
    corner = (tf.cast(resized, tf.int32) - (height, width)) // 2
    cropped = tf.raw_ops.ScaleAndTranslate(
        images=tf.cast(image, tf.float32)[tf.newaxis],
        size=(height, width),
        scale=tf.cast(resized / sides, tf.float32),
        translation=-tf.cast(corner, tf.float32),
        kernel_type=KERNELS[preprocessing["interpolation"]],
        antialias=preprocessing["antialias"],
    )
    pixels = tf.cast(tf.clip_by_value(tf.round(cropped[0]), 0, 255), tf.uint8)
    return tf.ensure_shape(pixels, (height, width, channels))


def to_channels(image: tf.Tensor, channels: int) -> tf.Tensor:
    """Make grey of RGB, exactly as Pillow does, or the reverse: uint8 [..., c] -> [..., C]."""
    if image.shape[-1] == 3 and channels == 1:
        parts = tf.cast(image, tf.int32) * [19595, 38470, 7471] + [0, 0, 2**15]
        return tf.cast(tf.reduce_sum(parts, axis=-1, keepdims=True) // 2**16, tf.uint8)
    return tf.image.grayscale_to_rgb(image) if image.shape[-1] < channels else image
