"""RandAugment: a few operations drawn for each image (Cubuk et al. 2019, arXiv:1909.13719).

`keras.layers.RandAugment` is not used: Keras 3.15 draws its operations once per batch instead of
once per image, and ignores its seed. A training with it could not be resumed exactly.
"""

import math
from collections.abc import Callable

import tensorflow as tf

_FILL = 125.0  # the level of pixels that come from outside the image
# A function of an image, float32 [H, W, C] with levels 0 to 255, and a strength in [-1, 1]. It
# returns the changed image.
_Operation = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def rand_augment(image: tf.Tensor, layers: int, magnitude: float, key: tf.Tensor) -> tf.Tensor:
    """Apply uniformly drawn operations one after another: uint8 [H, W, C] -> uint8 [H, W, C].

    Args:
        image: pixels.
        layers: the number of operations.
        magnitude: the strength of each operation, 0 to 10; the sign of each strength is drawn at
            random.
        key: a seed, int32 [2].
    """
    pixels = tf.cast(image, tf.float32)
    chosen = tf.random.stateless_uniform([layers], key, 0, len(OPERATIONS), tf.int32)
    signs = tf.sign(tf.random.stateless_uniform([layers], key + 1, -1.0, 1.0))
    for layer in range(layers):
        strength = signs[layer] * magnitude / 10
        pixels = _apply(pixels, chosen[layer], strength)
        pixels = tf.ensure_shape(tf.clip_by_value(tf.round(pixels), 0, 255), image.shape)
    return tf.cast(pixels, tf.uint8)


def _apply(pixels: tf.Tensor, index: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    branches = [
        lambda operation=operation: operation(pixels, strength) for operation in OPERATIONS.values()
    ]
    return tf.switch_case(index, branches)


def _auto_contrast(image: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
    """Stretch each channel to levels 0 to 255."""
    low = tf.reduce_min(image, axis=(0, 1), keepdims=True)
    high = tf.reduce_max(image, axis=(0, 1), keepdims=True)
    return tf.where(high > low, (image - low) * 255 / tf.maximum(high - low, 1), image)


def _equalize(image: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
    """Give each channel a flat histogram, as Pillow's ImageOps.equalize does."""

    def one(channel: tf.Tensor) -> tf.Tensor:
        levels = tf.cast(channel, tf.int32)
        histogram = tf.math.bincount(tf.reshape(levels, [-1]), minlength=256, maxlength=256)
        last = histogram[tf.reduce_max(levels)]
        step = (tf.reduce_sum(histogram) - last) // 255
        table = (tf.cumsum(histogram, exclusive=True) + step // 2) // tf.maximum(step, 1)
        new = tf.gather(tf.clip_by_value(table, 0, 255), levels)
        return tf.cast(tf.where(step > 0, new, levels), tf.float32)

    return tf.stack([one(image[..., c]) for c in range(image.shape[-1])], axis=-1)


def _posterize(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Keep the upper 8 to 4 bits of each level."""
    step = 2.0 ** tf.round(4 * tf.abs(strength))
    return tf.floor(image / step) * step


def _solarize(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Invert the levels at or above a threshold; a higher strength lowers it, from 256 to 0."""
    return tf.where(image < 256 * (1 - tf.abs(strength)), image, 255 - image)


def _rotate(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Rotate about the centre by up to 30 degrees."""
    angle = strength * (math.pi / 6)
    return _move(image, [tf.cos(angle), -tf.sin(angle)], [tf.sin(angle), tf.cos(angle)])


def _blend(image: tf.Tensor, other: tf.Tensor | float, strength: tf.Tensor) -> tf.Tensor:
    """Return other + factor * (image - other), where the factor is 1 + 0.9 * strength."""
    return other + (image - other) * (1 + 0.9 * strength)


def _grey(image: tf.Tensor) -> tf.Tensor:
    return tf.image.rgb_to_grayscale(image) if image.shape[-1] == 3 else image


def _smooth(image: tf.Tensor) -> tf.Tensor:
    kernel = tf.constant([[1, 1, 1], [1, 5, 1], [1, 1, 1]], tf.float32) / 13
    kernel = tf.tile(kernel[:, :, None, None], (1, 1, image.shape[-1], 1))
    framed = tf.pad(image, ((1, 1), (1, 1), (0, 0)), mode="SYMMETRIC")
    return tf.nn.depthwise_conv2d(framed[None], kernel, (1, 1, 1, 1), "VALID")[0]


def _move(
    image: tf.Tensor,
    x_row: list[float | tf.Tensor],
    y_row: list[float | tf.Tensor],
    *,
    right: float | tf.Tensor = 0.0,
    down: float | tf.Tensor = 0.0,
) -> tf.Tensor:
    """Apply a linear map about the image's centre, and a shift."""
    height, width, _ = image.shape
    centre = tf.constant([(width - 1) / 2, (height - 1) / 2])
    rows = tf.convert_to_tensor([x_row, y_row])
    shift = centre - tf.linalg.matvec(rows, centre) + [right * width, down * height]
    parts = [rows[0, 0], rows[0, 1], shift[0], rows[1, 0], rows[1, 1], shift[1], 0.0, 0.0]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=tf.stack([tf.stack(parts)]),
        output_shape=(height, width),
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
        fill_value=_FILL,
    )[0]


# The operations and their ranges are as in the paper's appendix and in torchvision. In another
# order, the same seed would draw other operations.
OPERATIONS: dict[str, _Operation] = {
    "identity": lambda image, _: image,
    "auto_contrast": _auto_contrast,
    "equalize": _equalize,
    "posterize": _posterize,
    "solarize": _solarize,
    "brightness": lambda image, s: _blend(image, 0.0, s),
    "contrast": lambda image, s: _blend(image, tf.reduce_mean(_grey(image)), s),
    "color": lambda image, s: _blend(image, _grey(image), s),
    "sharpness": lambda image, s: _blend(image, _smooth(image), s),
    "rotate": _rotate,
    "shear_x": lambda image, s: _move(image, [1.0, 0.3 * s], [0.0, 1.0]),
    "shear_y": lambda image, s: _move(image, [1.0, 0.0], [0.3 * s, 1.0]),
    "translate_x": lambda image, s: _move(image, [1.0, 0.0], [0.0, 1.0], right=0.45 * s),
    "translate_y": lambda image, s: _move(image, [1.0, 0.0], [0.0, 1.0], down=0.45 * s),
}
