"""The interface between the sources of images and the pipeline that makes batches of them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_cnns.recipes import DataConfig

if TYPE_CHECKING:
    from keras_cnns.data.sources.folder.corrections import Corrections

PIXELS_LIMIT = 2**29  # maximum number of bytes of decoded images that are kept in memory
Pair = tuple[Any, Any]  # image uint8 [h, w, c], label int64 []


@dataclass(frozen=True)
class Contents:
    """The keys and labels by which the images of a split are grouped.

    Attributes:
        keys: a text for each image; copies and near-duplicates of an image have the same text.
        labels: the class of each image, int64 [N].
    """

    keys: tuple[str, ...]
    labels: np.ndarray


@dataclass(frozen=True)
class IndexedImages:
    """The labelled images of a split that can be read in any order.

    Attributes:
        count: the number of images.
        read: a function that takes an index, int64 [], and returns the decoded image, in its
            original size, and its label.
        gather: a function that returns images at the network's size, and their labels, from memory:
            int64 [N] -> uint8 [N, H, W, C], int64 [N]; None if the images are not kept in memory.
        check_rest: if `read` checks images, a function to call after an error: it checks the images
            that were not read yet, and raises an error that lists all bad images.
        path_of: a function that returns the file of the image at an index, without reading the
            file; None if the images are not separate files.
        contents: a function that returns the `Contents` of all images; None if they can only be
            determined from the pixels.
    """

    count: int
    read: Callable[[tf.Tensor], Pair]
    gather: Callable[[tf.Tensor], Pair] | None = None
    check_rest: Callable[[], None] | None = None
    path_of: Callable[[int], Path] | None = None
    contents: Callable[[], Contents] | None = None

    def select(self, indices: np.ndarray) -> "IndexedImages":
        """Return the images at the given indices, int64 [M]; the result has no `gather`."""
        read, path_of = self.read, self.path_of
        with tf.device("CPU"):
            chosen = tf.constant(indices, tf.int64)
        return IndexedImages(
            len(indices),
            lambda index: read(chosen[index]),
            path_of=path_of and (lambda index: path_of(int(indices[index]))),
        )

    def slice(self, start: int, stop: int) -> "IndexedImages":
        """Return the images from one index up to, but not including, another."""
        read, gather, path_of = self.read, self.gather, self.path_of
        return IndexedImages(
            stop - start,
            lambda index: read(index + start),
            gather and (lambda indices: gather(indices + start)),
            self.check_rest,
            path_of and (lambda index: path_of(index + start)),
        )


def join(first: IndexedImages, second: IndexedImages) -> IndexedImages:
    """Return the images of the first split and then of the second; the result has no `gather`."""
    border, path_of_first, path_of_second = first.count, first.path_of, second.path_of

    def read(index: tf.Tensor) -> Pair:
        image, label = tf.cond(
            index < border, lambda: first.read(index), lambda: second.read(index - border)
        )
        return image, label

    path_of = None
    if path_of_first and path_of_second:

        def path_of(index: int) -> Path:
            return path_of_first(index) if index < border else path_of_second(index - border)

    return IndexedImages(first.count + second.count, read, path_of=path_of)


@dataclass(frozen=True)
class ImageStream:
    """The labelled images of a split that is too large for memory, read from files in order.

    Attributes:
        count: the number of images.
        encoded: a function that returns a dataset of (encoded image, label), beginning at an index
            of an epoch. Its first argument is the key of the epoch's order, int64 [2], or None for
            the order of the files. Its second argument is the index, int64 [].
    """

    count: int
    encoded: Callable[[tf.Tensor | None, tf.Tensor], tf.data.Dataset]


class Source(Protocol):
    """A data set that is opened for one command and reads each image at most once."""

    @property
    def corrections(self) -> "Corrections | None":
        """The corrections of the labels; only a folder can have them."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, K of them, in the order of their indices."""

    def fingerprint(self) -> str:
        """Return a text that identifies the data: a hash, or a name and version.

        Raises:
            ValueError: there is no such data set, or `data check` finds errors in its folder.
        """

    def open(
        self, split: str, *, check_first: bool, keep_pixels: bool
    ) -> IndexedImages | ImageStream:
        """Return a split's images.

        Args:
            split: a split's name, or a slice in TFDS' syntax, such as `train[:45000]`.
            check_first: if True, check all files of a folder now; if False, the files of a split
                that does not fit in memory are checked as they are read.
            keep_pixels: if False, release the pixels that were kept at the network's size; the
                caller needs the images in their original size.

        Raises:
            ValueError: there is no such data set or split, or the split is empty.
        """


def fits_in_memory(config: DataConfig, count: int) -> bool:
    """Return whether `count` images, at the network's size, may be kept in memory."""
    return config.image_size**2 * config.channels * count <= PIXELS_LIMIT


def splits_in_recipe(config: DataConfig) -> tuple[str, ...]:
    """Return the names of a recipe's splits, without their slices."""
    specs = (config.train_split, config.validation_split, config.test_split)
    return tuple(sorted({name for spec in specs for name in split_names(spec)}))


def split_names(spec: str) -> list[str]:
    """Return the names of the splits in a text such as `train[:90%]+test`, without their slices."""
    return [part.strip().partition("[")[0] for part in spec.split("+")]


def slice_split(counts: Mapping[str, int], split: str) -> tuple[str, int, int]:
    """Return the name of a sliced split, and the indices at which the slice starts and stops.

    Args:
        counts: the number of images of each split.
        split: a split's name, or a slice in TFDS' syntax, such as `train[:80%]`.

    Raises:
        ValueError: there is no such split, or it is empty.
    """
    try:
        sizes = {name: SimpleNamespace(num_examples=count) for name, count in counts.items()}
        (part,) = tfds.core.ReadInstruction.from_spec(split).to_absolute(sizes)
    except (ValueError, KeyError, AssertionError) as error:
        raise unknown_split(split, counts) from error
    start, stop, _ = slice(part.from_, part.to).indices(counts[part.splitname])
    if start >= stop:
        raise unknown_split(split, counts)
    return part.splitname, start, stop


def unknown_split(split: str, names: Iterable[str]) -> ValueError:
    """Return the error that lists the splits that exist."""
    return ValueError(
        f"there is no split {split!r}, or it has no images; the splits are {', '.join(names)}"
    )
