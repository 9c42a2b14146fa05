"""The images that formats are compared on: a split's, or made ones, in batches of mixed sizes."""

import pickle
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_cnns_export.errors import ExportError
from keras_cnns_export.graph import Array

if TYPE_CHECKING:
    from keras_cnns.data import Splits

GENERATED = "generated"  # the split's name where the images are made here
BATCH_SIZE = 64
MIXED_SIZES = (1, 3, BATCH_SIZE)  # of the first batches; a graph of a fixed N fails on them
MEMORY_LIMIT = 2**29  # bytes of kept batches; more of them are kept in a temporary file

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


class Kept:
    """Batches that several readers iterate over, and that come from their source only once.

    A batch is asked of the source when the first reader comes to it. All batches are kept in memory
    or, beyond `MEMORY_LIMIT`, in a temporary file, which disappears with this object.
    """

    def __init__(self, source: Iterable[Batch]) -> None:
        """Keep the batches of a source as they are read."""
        self._source = iter(source)
        self._file = tempfile.SpooledTemporaryFile(MEMORY_LIMIT)  # noqa: SIM115
        self._end = 0
        weakref.finalize(self, self._file.close)

    def __iter__(self) -> Iterator[Batch]:
        """Yield all batches from the first one on.

        Raises:
            ExportError: the temporary file cannot be written.
        """
        position = 0
        while position < self._end or self._keep_next():
            self._file.seek(position)
            batch = pickle.load(self._file)
            position = self._file.tell()
            yield batch

    def _keep_next(self) -> bool:
        """Append the source's next batch to the file; return whether there is one."""
        batch = next(self._source, None)
        if batch is None:
            return False
        arrays = tuple(None if each is None else np.asarray(each) for each in batch)
        self._file.seek(self._end)
        try:
            pickle.dump(arrays, self._file, pickle.HIGHEST_PROTOCOL)
            self._end = self._file.tell()
        except OSError as error:
            raise ExportError(
                "cannot keep the images that formats are compared on in "
                f"{tempfile.gettempdir()}: {error.strerror}; set TMPDIR to a folder with more room"
            ) from error
        return True


def shuffled_split(splits: "Splits", split: str) -> Iterator[Batch]:
    """Return the batches of a run's split, in a fixed order that mixes the classes.

    A folder is sorted by class, and int8 formats take their ranges from the first images. The split
    is opened with the first batch; of a set that is not checked, only the images that are iterated
    over are decoded, and a few batches ahead.

    Raises:
        ValueError: there is no such data set or split, or the split is empty.
    """
    yield from splits.open(split, batch_size=BATCH_SIZE, seed=0, in_memory=False)


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
