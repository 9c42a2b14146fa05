"""The procedural `shapes`: coloured figures on a coloured ground, any size and any number.

An image is a function of its number, drawn when it is needed, so that work at scale needs neither
a download nor a disk. What tells the classes apart is the figure alone: colour, place, size, turn
and noise are drawn at random.
"""

import math
from collections.abc import Callable

import tensorflow as tf

from keras_cnns.data.samples import Pair, Samples, slice_split

EVALUATION_SHARE = 10  # validation and test each have a tenth of the training images
STREAMS = {"train": 11, "validation": 12, "test": 13}  # a seed for each split
NOISE = 12.0  # levels, standard deviation
Figure = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def polygon(corners: int) -> Figure:
    """Return a regular polygon's distance: x, y -> at most 1 inside of it."""
    step = 2 * math.pi / corners

    def distance(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        angle = tf.math.floormod(tf.atan2(y, x) + step / 2, step) - step / 2
        return tf.sqrt(x**2 + y**2) * tf.cos(angle) / math.cos(step / 2)

    return distance


def star(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Five petals."""
    return tf.sqrt(x**2 + y**2) / (0.62 + 0.38 * tf.cos(5 * tf.atan2(y, x)))


def disc(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """A full circle."""
    return tf.sqrt(x**2 + y**2)


def ring(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """A circle with a hole."""
    return tf.abs(disc(x, y) - 0.75) * 4


def cross(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Two crossing bars."""
    x, y = tf.abs(x), tf.abs(y)
    return tf.maximum(tf.maximum(x, y), 3.5 * tf.minimum(x, y))


def bar(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """One bar."""
    return tf.maximum(tf.abs(x), 3.5 * tf.abs(y))


def crescent(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """A disc that another has bitten."""
    return tf.maximum(disc(x, y), 1.75 - disc(x - 0.55, y))


def ellipse(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Twice as long as wide."""
    return disc(x, 2 * y)


FIGURES: dict[str, Figure] = {
    "bar": bar,
    "crescent": crescent,
    "cross": cross,
    "disc": disc,
    "ellipse": ellipse,
    "hexagon": polygon(6),
    "ring": ring,
    "square": polygon(4),
    "star": star,
    "triangle": polygon(3),
}


def open_samples(split: str, count: int, size: int) -> Samples:
    """Return a split's images, uint8 [size, size, 3].

    Args:
        split: train, validation or test, or a slicing of one.
        count: images of the training split.
        size: height and width, pixels.

    Raises:
        ValueError: there is no such split, or nothing in it.
    """
    fewer = max(count // EVALUATION_SHARE, len(FIGURES))
    counts = {"train": count, "validation": fewer, "test": fewer}
    name, start, stop = slice_split(counts, split)

    def read(number: tf.Tensor) -> Pair:
        label = number % len(FIGURES)
        return draw(label, size, tf.stack([tf.constant(STREAMS[name], tf.int64), number])), label

    return Samples(counts[name], read).part(start, stop)


def draw(label: tf.Tensor, size: int, key: tf.Tensor) -> tf.Tensor:
    """Return a picture of a class: uint8 [size, size, 3].

    Args:
        label: its number.
        size: height and width, pixels.
        key: two integers, which decide everything else.
    """
    draws = tf.random.stateless_uniform([11], key)
    radius = 0.3 + 0.3 * draws[0]  # of half the picture
    angle = 2 * math.pi * draws[1]
    centre = (2 * draws[2:4] - 1) * (1 - radius)
    grid = (tf.range(size, dtype=tf.float32) * 2 + 1) / size - 1
    x, y = (grid[None, :] - centre[0]) / radius, (grid[:, None] - centre[1]) / radius
    x, y = x * tf.cos(angle) + y * tf.sin(angle), y * tf.cos(angle) - x * tf.sin(angle)
    branches = [lambda figure=figure: figure(x, y) for figure in FIGURES.values()]
    distance = tf.ensure_shape(tf.switch_case(tf.cast(label, tf.int32), branches), (size, size))
    softness = 2 / (size * radius)  # an edge of about a pixel
    inside = tf.clip_by_value((1 - distance) / softness + 0.5, 0, 1)[..., None]
    ground, offset = draws[4:7] * 255, (draws[7:10] - 0.5) * 120
    # At least a quarter of all levels away, so that a figure can be seen.
    figure = tf.math.floormod(ground + 127.5 + offset, 255)
    noise = tf.random.stateless_normal([size, size, 3], key + 2**20, stddev=NOISE)
    pixels = ground + (figure - ground) * inside + noise
    return tf.cast(tf.clip_by_value(tf.round(pixels), 0, 255), tf.uint8)
