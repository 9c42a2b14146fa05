"""Take a validation split out of training images by their pixels, for every kind of source."""

import hashlib
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import tensorflow as tf

from keras_cnns.cores import available_cores
from keras_cnns.data import pipeline, tfds_samples
from keras_cnns.data.autotuning import without_autotuning
from keras_cnns.data.preprocessing import preprocess
from keras_cnns.data.samples import (
    Samples,
    Stream,
    content_fraction,
    slice_split,
    split_by_fraction,
)
from keras_cnns.recipes import DataConfig

_SPLITS = ("train", "validation")


def split_by_content(images: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """Return the indices of the training and the validation images, each int64 [...].

    An image's levels alone decide; so equal images are in the same split, and about a tenth of them
    is for validation. A grey image may have one channel or three equal ones.

    Args:
        images: uint8 [h, w] or [h, w, c] each.
    """
    splits = np.array([_split_of(image) for image in images])
    return {split: np.flatnonzero(splits == split) for split in _SPLITS}


def _split_of(image: np.ndarray) -> str:
    is_grey = image.ndim == 2 or bool((image == image[..., :1]).all())
    levels = image[..., 0] if is_grey and image.ndim == 3 else image
    digest = hashlib.sha256(levels.tobytes()).hexdigest()
    return split_by_fraction(content_fraction(digest), ["validation"])


def open_tfds_samples(
    name: str, split: str, wanted: Iterable[str], divide: Callable[[], Mapping[str, Samples]]
) -> Samples | Stream:
    """Open a split of a TFDS data set.

    If a validation split is wanted that the data set does not have, it is taken out of the training
    split by content.

    Args:
        name: of the data set.
        split: a split's name, or a slicing of one.
        wanted: the names of the splits that the recipe has.
        divide: returns what `divide_training` returns; called only if it is needed.

    Raises:
        ValueError: there is no such data set or split; it is too large to be split by content; or a
            combination of splits would include images of the validation split.
    """
    splits = tfds_samples.open_builder(name).info.splits
    is_split = "validation" in set(wanted) - set(splits)
    parts_of_split = [part.strip().partition("[")[0] for part in split.split("+")]
    if is_split and len(parts_of_split) > 1 and "train" in parts_of_split:
        raise ValueError(
            f"{split!r} includes training images that are in the validation split, which {name} "
            "does not have; name parts of its training split for both, such as "
            '"train[:90%]" and "train[90%:]"'
        )
    if not is_split or parts_of_split[0] not in _SPLITS:
        return tfds_samples.open_samples(name, split)
    parts = divide()
    part, start, stop = slice_split({key: each.count for key, each in parts.items()}, split)
    return parts[part].part(start, stop)


def divide_training(config: DataConfig) -> dict[str, Samples]:
    """Divide the training split of a TFDS data set into training and validation by content.

    Every image is read and decoded, since only its pixels tell its split, and a training needs the
    size of its splits before the first step. The images of a split that take at most
    `pipeline.PIXELS_LIMIT` bytes at the network's size are kept, so that this is the only pass.

    Raises:
        ValueError: the data set is too large to be split by content.
    """
    samples = tfds_samples.open_samples(config.name, "train")
    if isinstance(samples, Stream):
        raise ValueError(
            f"{config.name} has no validation split, and is too large to take one out by content; "
            'name parts of its training split, such as "train[:95%]" and "train[95%:]"'
        )

    def read(index: tf.Tensor) -> tuple[tf.Tensor, ...]:
        image, label = samples.read(index)
        return image, preprocess(image, config.preprocessing()), label

    numbers = tf.data.Dataset.range(samples.count)
    images = without_autotuning(numbers.map(read, num_parallel_calls=available_cores()))
    shape = (config.image_size, config.image_size, config.channels)
    limit = pipeline.PIXELS_LIMIT // int(np.prod(shape))  # images
    # The system allocates these arrays as they are filled.
    pixels = {split: np.empty((min(limit, samples.count), *shape), np.uint8) for split in _SPLITS}
    indices: dict[str, list[int]] = {split: [] for split in _SPLITS}
    labels = np.empty(samples.count, np.int64)
    for index, (image, prepared, label) in enumerate(images.as_numpy_iterator()):
        split = _split_of(image)
        if len(indices[split]) < limit:
            pixels[split][len(indices[split])] = prepared
        indices[split].append(index)
        labels[index] = label
    return {
        split: _select(samples, chosen, pixels.pop(split), labels)
        for split, chosen in indices.items()
    }


def _select(
    samples: Samples, indices: list[int], pixels: np.ndarray, labels: np.ndarray
) -> Samples:
    """Return the images at some indices; `pixels` are theirs, or of the first of them."""
    with tf.device("CPU"):
        chosen = tf.constant(indices, tf.int64)
        kept = None
        if len(indices) <= len(pixels):
            kept = tf.constant(pixels[: len(indices)]), tf.constant(labels[indices])
    return Samples(
        len(indices),
        lambda index: samples.read(chosen[index]),
        kept and (lambda numbers: (tf.gather(kept[0], numbers), tf.gather(kept[1], numbers))),
    )
