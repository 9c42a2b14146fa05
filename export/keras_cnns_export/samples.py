"""The images that formats are compared on: a split's, or made ones, in batches of mixed sizes."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_cnns_export.errors import ExportError
from keras_cnns_export.graph import Array

if TYPE_CHECKING:
    from keras_cnns.recipes import DataConfig

GENERATED = "generated"  # the split's name where the images are made here
BATCH_SIZE = 64
MIXED_SIZES = (1, 3, BATCH_SIZE)  # of the first batches; a graph of a fixed N fails on them

Batch = tuple[Array, Array | None]  # images uint8 [N, H, W, C], true classes int [N] or None


def generated_batches(shape: tuple[int, int, int], samples: int = 256) -> Iterator[Batch]:
    """Images for a model that comes without any: noise, half of it in coarse patches."""
    random = np.random.default_rng(0)
    height, width, channels = shape
    for start in range(0, samples, BATCH_SIZE):
        count = min(BATCH_SIZE, samples - start)
        images = random.integers(0, 256, (count, height, width, channels), np.uint8)
        coarse = images[::2, : -(-height // 8), : -(-width // 8)]
        images[::2] = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
        yield images, None


def batches_of(data: Any, shape: tuple[int, int, int]) -> Iterator[Batch]:
    """Yield batches of images [N, H, W, C], of a tuple (images, labels), or of such batches.

    Raises:
        ExportError: the images are not uint8 of the model's `shape` (H, W, C).
    """
    if isinstance(data, np.ndarray):
        data = (data, None)
    for images, labels in _sliced(*data) if isinstance(data, tuple) else data:
        images, labels = np.asarray(images), None if labels is None else np.asarray(labels)
        if images.dtype != np.uint8 or images.shape[1:] != shape:
            raise ExportError(
                f"samples are {images.dtype} {list(images.shape)}; the model takes uint8 "
                f"[N, {', '.join(map(str, shape))}], raw pixels 0..255"
            )
        if labels is not None and labels.shape != images.shape[:1]:
            raise ExportError(
                f"samples have true classes {list(labels.shape)} for {len(images)} images; give "
                "each image the number of its class"
            )
        yield images, labels


def shuffled_split(data: "DataConfig", split: str) -> Iterable[Batch]:
    """Return the batches of a run's split, in a fixed order that mixes the classes.

    A folder is sorted by class, and int8 formats take their ranges from the first images. Only the
    images that are iterated over are decoded, and a few batches ahead.

    Raises:
        ValueError: there is no such data set or split, or the split is empty.
    """
    from keras_cnns.data import open_split

    batches: Iterable[Batch] = open_split(
        data, split, batch_size=BATCH_SIZE, seed=0, in_memory=False
    )
    return batches


def _sliced(images: Array, labels: Array | None) -> Iterator[Batch]:
    if labels is not None and len(labels) != len(images):
        raise ExportError(f"samples have {len(images)} images and {len(labels)} true classes")
    for start in range(0, len(images), BATCH_SIZE):
        cut = slice(start, start + BATCH_SIZE)
        yield images[cut], None if labels is None else labels[cut]


def mixed(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The same samples in batches of 1, 3, and 64 from there on; the last may have fewer."""
    sizes = iter(MIXED_SIZES)
    size = next(sizes)
    held: list[Batch] = []
    for batch in batches:
        held.append(batch)
        while sum(len(images) for images, _ in held) >= size:
            images, labels = _joined(held)
            yield images[:size], None if labels is None else labels[:size]
            held = [(images[size:], None if labels is None else labels[size:])]
            size = next(sizes, BATCH_SIZE)
    if any(len(images) for images, _ in held):
        yield _joined(held)


def first(batches: Iterable[Batch], count: int) -> Batch:
    """The first `count` samples, or all where there are fewer.

    Raises:
        ExportError: there are none, or none are asked for.
    """
    held: list[Batch] = []
    for batch in batches:
        held.append(batch)
        if sum(len(images) for images, _ in held) >= count:
            break
    if count < 1 or not any(len(images) for images, _ in held):
        raise ExportError(f"{count} images to calibrate on: the split must have one at least")
    images, labels = _joined(held)
    return images[:count], None if labels is None else labels[:count]


def _joined(batches: list[Batch]) -> Batch:
    labels = [labels for _, labels in batches if labels is not None]
    images = np.concatenate([images for images, _ in batches])
    return images, np.concatenate(labels) if len(labels) == len(batches) else None
