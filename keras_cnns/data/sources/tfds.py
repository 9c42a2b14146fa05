"""TensorFlow Datasets as a source; a missing validation split is created by content."""

import functools
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_cnns.cores import available_cores
from keras_cnns.data.autotuning import without_autotuning
from keras_cnns.data.preprocessing import preprocess
from keras_cnns.data.sources import base, divisions, tfds_files
from keras_cnns.data.sources.base import ImageStream, IndexedImages
from keras_cnns.data.sources.by_content import DIVIDED, split_of
from keras_cnns.recipes import DataConfig


class TfdsSource:
    """A data set of TFDS.

    If the data set lacks the validation split that the recipe names, the split is created from the
    training images by content.
    """

    corrections = None

    def __init__(self, config: DataConfig) -> None:
        self._config = config

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, in the order of their indices."""
        return tuple(tfds_files.open_builder(self._config.name).info.features["label"].names)

    def fingerprint(self) -> str:
        """Return the data set's name, version, and number of images in each split."""
        info = tfds_files.open_builder(self._config.name).info
        counts = {name: split.num_examples for name, split in info.splits.items()}
        return f"{info.full_name} {json.dumps(counts)}"

    def open(
        self, split: str, *, check_first: bool, keep_pixels: bool
    ) -> IndexedImages | ImageStream:
        """Return a split's images; see `Source.open`.

        Raises:
            ValueError: there is no such data set or split; the data set is too large to be split by
                content; or a combination of splits would include images of the validation split.
        """
        name = self._config.name
        existing = tfds_files.open_builder(name).info.splits
        lacks_validation = "validation" in set(base.splits_in_recipe(self._config)) - set(existing)
        names = base.split_names(split)
        if lacks_validation and len(names) > 1 and "train" in names:
            raise ValueError(
                f"{name} has no validation split: it is created from a part of the training "
                f"images, and {split!r} would include this part. Use parts of the training split "
                'for training and for validation, such as "train[:90%]" and "train[90%:]"'
            )
        if not lacks_validation or names[0] not in DIVIDED:
            return tfds_files.open_images(name, split)
        if not keep_pixels:
            whole = replace(self._divided[names[0]], gather=None)
            self._divided = {**self._divided, names[0]: whole}
        counts = {key: each.count for key, each in self._divided.items()}
        part, start, stop = base.slice_split(counts, split)
        return self._divided[part].slice(start, stop)

    @functools.cached_property
    def _divided(self) -> Mapping[str, IndexedImages]:
        return divide_training(self._config)


def divide_training(config: DataConfig) -> dict[str, IndexedImages]:
    """Divide the training split of a TFDS data set into training and validation by content.

    The split of an image depends on its pixels, and a training needs the sizes of its splits before
    the first step. Every image is therefore read and decoded, unless the division of these files is
    cached. If the images of a split take at most `base.PIXELS_LIMIT` bytes at the network's size,
    this pass keeps them, so that no further pass is needed.

    Raises:
        ValueError: the data set is too large to be split by content.
    """
    images = tfds_files.open_images(config.name, "train")
    if isinstance(images, ImageStream):
        raise ValueError(
            f"{config.name} has no validation split, and is too large to create one from the "
            "training images by content; use parts of its training split for training and for "
            'validation, such as "train[:95%]" and "train[95%:]"'
        )
    archive = divisions.archive_path(tfds_files.list_files(config.name, "train"))
    cached = divisions.find(archive, images.count)
    if cached is not None:
        return {
            split: _select(images, np.flatnonzero(cached == number))
            for number, split in enumerate(DIVIDED)
        }
    return _divide(images, config, archive)


def _divide(
    images: IndexedImages, config: DataConfig, archive: Path | None
) -> dict[str, IndexedImages]:
    """Divide images by their content in one pass, and cache the division."""

    def read(index: tf.Tensor) -> tuple[tf.Tensor, ...]:
        image, label = images.read(index)
        return image, preprocess(image, config.preprocessing()), label

    indices = tf.data.Dataset.range(images.count)
    decoded = without_autotuning(indices.map(read, num_parallel_calls=available_cores()))
    shape = (config.image_size, config.image_size, config.channels)
    limit = base.PIXELS_LIMIT // int(np.prod(shape))  # maximum number of images that are kept
    # The system allocates the memory of these arrays only as they are filled.
    pixels = {split: np.empty((min(limit, images.count), *shape), np.uint8) for split in DIVIDED}
    counts = dict.fromkeys(DIVIDED, 0)
    division = np.empty(images.count, np.uint8)
    labels = np.empty(images.count, np.int64)
    for index, (image, prepared, label) in enumerate(decoded.as_numpy_iterator()):
        split = split_of(image)
        if counts[split] < limit:
            pixels[split][counts[split]] = prepared
        counts[split] += 1
        division[index], labels[index] = DIVIDED.index(split), label
    divisions.save(archive, division)
    divided = {}
    for number, split in enumerate(DIVIDED):
        chosen = np.flatnonzero(division == number)
        kept = pixels.pop(split)[: len(chosen)]
        is_whole = len(kept) == len(chosen)
        divided[split] = _select(images, chosen, (kept, labels[chosen]) if is_whole else None)
    return divided


def _select(
    images: IndexedImages, indices: np.ndarray, kept: tuple[np.ndarray, np.ndarray] | None = None
) -> IndexedImages:
    """Return the images at the given indices; `kept` contains their pixels and labels."""
    with tf.device("CPU"):
        chosen = tf.constant(indices, tf.int64)
        tensors = kept and (tf.constant(kept[0]), tf.constant(kept[1], tf.int64))
    return IndexedImages(
        len(indices),
        lambda index: images.read(chosen[index]),
        tensors and (lambda rows: (tf.gather(tensors[0], rows), tf.gather(tensors[1], rows))),
    )
