"""Take a validation split out of training images by their pixels, for every kind of source."""

import functools
import hashlib
from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from keras_cnns.cores import available_cores
from keras_cnns.data import tfds_samples
from keras_cnns.data.autotuning import without_autotuning
from keras_cnns.data.samples import (
    Samples,
    Stream,
    content_fraction,
    slice_split,
    split_by_fraction,
)


def split_by_content(images: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """Return the indices of the training and the validation images, each int64 [...].

    An image's levels alone decide; so equal images are in the same split, and about a tenth of them
    is for validation. A grey image may have one channel or three equal ones.

    Args:
        images: uint8 [h, w] or [h, w, c] each.
    """
    splits = np.array(
        [split_by_fraction(content_fraction(_digest(image)), ["validation"]) for image in images]
    )
    return {split: np.flatnonzero(splits == split) for split in ("train", "validation")}


def _digest(image: np.ndarray) -> str:
    is_grey = image.ndim == 2 or bool((image == image[..., :1]).all())
    levels = image[..., 0] if is_grey and image.ndim == 3 else image
    return hashlib.sha256(levels.tobytes()).hexdigest()


def open_tfds_samples(name: str, split: str, wanted: Iterable[str]) -> Samples | Stream:
    """Open a split of a TFDS data set.

    If a validation split is wanted that the data set does not have, it is taken out of the training
    split by content.

    Args:
        name: of the data set.
        split: a split's name, or a slicing of one.
        wanted: the names of the splits that the recipe has.

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
    if not is_split or parts_of_split[0] not in ("train", "validation"):
        return tfds_samples.open_samples(name, split)
    parts = _split_training(name)
    part, start, stop = slice_split({key: each.count for key, each in parts.items()}, split)
    return parts[part].part(start, stop)


@functools.lru_cache(maxsize=2)
def _split_training(name: str) -> dict[str, Samples]:
    samples = tfds_samples.open_samples(name, "train")
    if isinstance(samples, Stream):
        raise ValueError(
            f"{name} has no validation split, and is too large to take one out by content; name "
            'parts of its training split, such as "train[:95%]" and "train[95%:]"'
        )
    images = without_autotuning(
        tf.data.Dataset.range(samples.count).map(
            lambda index: samples.read(index)[0], num_parallel_calls=available_cores()
        )
    )
    indices = split_by_content(images.as_numpy_iterator())
    return {split: _select(samples, chosen) for split, chosen in indices.items()}


def _select(samples: Samples, indices: np.ndarray) -> Samples:
    chosen = tf.constant(indices)
    return Samples(len(indices), lambda index: samples.read(chosen[index]))
