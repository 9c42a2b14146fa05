"""The procedural data set `shapes`: images of a coloured shape on a coloured background.

The recipe sets the size and the number of the images.

An image is a function of its index and is drawn when it is needed. Large experiments therefore need
no download and no disk space. Only the shape depends on the class: colour, position, size, angle
and noise are drawn at random.
"""

import math
from collections.abc import Callable

import tensorflow as tf

from keras_cnns.data.sources.base import IndexedImages, Pair, slice_split
from keras_cnns.recipes import DataConfig

_SEEDS = {"train": 11, "validation": 12, "test": 13}
_NOISE = 12.0  # standard deviation in levels
# A function of (x, y), each float32 [H, W]. A shape is the set of points at which the function's
# value is at most 1.
_Distance = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def _polygon(corners: int) -> _Distance:
    step = 2 * math.pi / corners

    def distance(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        angle = tf.math.floormod(tf.atan2(y, x) + step / 2, step) - step / 2
        return tf.sqrt(x**2 + y**2) * tf.cos(angle) / math.cos(step / 2)

    return distance


def _star(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    return tf.sqrt(x**2 + y**2) / (0.62 + 0.38 * tf.cos(5 * tf.atan2(y, x)))


def _disc(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    return tf.sqrt(x**2 + y**2)


def _cross(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    x, y = tf.abs(x), tf.abs(y)
    return tf.maximum(tf.maximum(x, y), 3.5 * tf.minimum(x, y))


SHAPES: dict[str, _Distance] = {
    "bar": lambda x, y: tf.maximum(tf.abs(x), 3.5 * tf.abs(y)),
    "crescent": lambda x, y: tf.maximum(_disc(x, y), 1.75 - _disc(x - 0.55, y)),
    "cross": _cross,
    "disc": _disc,
    "ellipse": lambda x, y: _disc(x, 2 * y),
    "hexagon": _polygon(6),
    "ring": lambda x, y: tf.abs(_disc(x, y) - 0.75) * 4,
    "square": _polygon(4),
    "star": _star,
    "triangle": _polygon(3),
}


class Shapes:
    """The shapes as a source, with the number of training images that the recipe specifies."""

    corrections = None

    def __init__(self, config: DataConfig) -> None:
        self.labels = tuple(SHAPES)
        self._config = config

    def fingerprint(self) -> str:
        """Return the size and number of the images."""
        return f"shapes of {self._config.image_size} pixels, {self._config.num_examples} samples"

    def open(self, split: str, *, check_first: bool, keep_pixels: bool) -> IndexedImages:
        """Return the images of a split (train, validation or test), or of a slice of a split."""
        training = self._config.num_examples
        evaluation = max(training // 10, len(SHAPES))
        counts = {"train": training, "validation": evaluation, "test": evaluation}
        name, start, stop = slice_split(counts, split)

        def read(index: tf.Tensor) -> Pair:
            label = index % len(SHAPES)
            key = tf.stack([tf.constant(_SEEDS[name], tf.int64), index])
            return draw(label, self._config.resize_shorter, key), label

        return IndexedImages(counts[name], read).slice(start, stop)


def draw(label: tf.Tensor, size: int, key: tf.Tensor) -> tf.Tensor:
    """Draw an image of a class: uint8 [size, size, 3].

    Args:
        label: the index of the class.
        size: height and width in pixels.
        key: the seed of all random numbers, int64 [2].
    """
    draws = tf.random.stateless_uniform([11], key)
    radius = 0.3 + 0.3 * draws[0]  # in units of half the image's side
    angle = 2 * math.pi * draws[1]
    centre = (2 * draws[2:4] - 1) * (1 - radius)
    grid = (tf.range(size, dtype=tf.float32) * 2 + 1) / size - 1
    x, y = (grid[None, :] - centre[0]) / radius, (grid[:, None] - centre[1]) / radius
    x, y = x * tf.cos(angle) + y * tf.sin(angle), y * tf.cos(angle) - x * tf.sin(angle)
    branches = [lambda shape=shape: shape(x, y) for shape in SHAPES.values()]
    distance = tf.ensure_shape(tf.switch_case(tf.cast(label, tf.int32), branches), (size, size))
    softness = 2 / (size * radius)  # makes the edge about a pixel wide
    inside = tf.clip_by_value((1 - distance) / softness + 0.5, 0, 1)[..., None]
    background, offset = draws[4:7] * 255, (draws[7:10] - 0.5) * 120
    # The shape's colour differs from the background by at least a quarter of all levels, so that
    # the shape is visible.
    colour = tf.math.floormod(background + 127.5 + offset, 255)
    noise = tf.random.stateless_normal([size, size, 3], key + 2**20, stddev=_NOISE)
    pixels = background + (colour - background) * inside + noise
    return tf.cast(tf.clip_by_value(tf.round(pixels), 0, 255), tf.uint8)
