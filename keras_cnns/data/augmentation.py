"""Random changes of a whole batch of training images that leave their labels true."""

import tensorflow as tf


def shift_and_flip(
    images: tf.Tensor, draws: tf.Tensor, *, padding: int = 0, flip: bool = False
) -> tf.Tensor:
    """Pad with zeros, crop at random, mirror half (He et al. 2015, section 4.2): [N, H, W, C].

    Args:
        images: pixels.
        draws: random numbers in [0, 1), [N, 3]: down, right, mirror.
        padding: pixels on each side.
        flip: whether to mirror any.
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
    """Fill a rectangle with noise: 2 to 40 % of the area, sides 0.3 to 1/0.3: [N, H, W, C].

    Args:
        images: pixels.
        draws: random numbers in [0, 1), [N, 5]: whether, area, ratio of the sides, down, right.
        noise: what to fill with, as the images.
        probability: share of images that lose a rectangle.

    References:
        Zhong et al. 2017, Random erasing data augmentation (arXiv:1708.04896), table 1, RE-R.
    """
    area = 0.02 + draws[:, 1] * (0.4 - 0.02)
    ratio = tf.exp((2 * draws[:, 2] - 1) * tf.math.log(1 / 0.3))
    # Shares of the height and the width; a side that would stick out is as long as the image.
    sides = tf.minimum(tf.sqrt(tf.stack([area * ratio, area / ratio], axis=1)), 1.0)
    corner = draws[:, 3:5] * (1 - sides)
    inside = rectangle(images, corner, corner + sides)
    chosen = (draws[:, 0] < probability)[:, None, None, None]
    return tf.where(inside & chosen, noise, images)


def rectangle(images: tf.Tensor, start: tf.Tensor, stop: tf.Tensor) -> tf.Tensor:
    """Return which pixels lie between two corners, in shares of the sides: bool [N, H, W, 1]."""
    _, height, width, _ = images.shape

    def between(size: int, axis: int) -> tf.Tensor:
        edges = tf.cast(tf.round(tf.stack([start, stop])[:, :, axis, None] * size), tf.int32)
        return (tf.range(size) >= edges[0]) & (tf.range(size) < edges[1])

    return (between(height, 0)[:, :, None] & between(width, 1)[:, None, :])[..., None]
