"""Batches of images on which formats are compared with Keras and calibrated."""

import pickle
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_cnns_export.errors import ExportError

if TYPE_CHECKING:
    from keras_cnns.data import Splits

Array = np.ndarray[Any, Any]
Batch = tuple[Array, Array | None]  # images uint8 [N, H, W, C], true classes int [N] or None
Predict = Callable[[Array], Mapping[str, Array]]  # images uint8 [N, H, W, C] -> named outputs

GENERATED = "generated"  # the split's name if the images are generated here
BATCH_SIZE = 64
_FIRST_SIZES = (1, 3)  # sizes of the first batches; a graph with a fixed N fails on them
MEMORY_LIMIT = 2**29  # bytes; cached batches beyond it are written to a temporary file


def generated_batches(shape: tuple[int, int, int], count: int = 256) -> Iterator[Batch]:
    """Yield `count` unlabelled images of noise of `shape` (H, W, C), every second one coarse."""
    random = np.random.default_rng(0)
    height, width, channels = shape
    for start in range(0, count, BATCH_SIZE):
        size = min(BATCH_SIZE, count - start)
        images = random.integers(0, 256, (size, height, width, channels), np.uint8)
        coarse = images[::2, : -(-height // 8), : -(-width // 8)]
        images[::2] = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
        yield images, None


def batches_of(data: Any, shape: tuple[int, int, int]) -> Iterator[Batch]:
    """Yield batches of an array [N, H, W, C], a tuple (images, classes), or an iterable of these.

    Raises:
        ExportError: the images are not uint8 of the model's `shape` (H, W, C), or the classes are
            not one number for each image.
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


def _sliced(images: Array, labels: Array | None) -> Iterator[Batch]:
    if labels is not None and len(labels) != len(images):
        raise ExportError(f"samples have {len(images)} images and {len(labels)} true classes")
    for start in range(0, len(images), BATCH_SIZE):
        rows = slice(start, start + BATCH_SIZE)
        yield images[rows], None if labels is None else labels[rows]


def shuffled_split(splits: "Splits", split: str) -> Iterator[Batch]:
    """Yield the batches of a run's split in a fixed order that mixes the classes.

    A folder is sorted by class, and int8 formats take their ranges from the first images. The split
    is opened when the first batch is requested. Unless the data set is checked as a whole, only
    the requested images and a few batches ahead of them are decoded.

    Raises:
        ValueError: there is no such data set or split, or the split is empty.
    """
    yield from splits.open(split, batch_size=BATCH_SIZE, seed=0, in_memory=False)


class CachedBatches:
    """Batches that are read from their source once and can be iterated over several times.

    The source's next batch is read when the first iterator needs it. All batches are cached in
    memory or, beyond `MEMORY_LIMIT`, in a temporary file, which is deleted with this object.
    """

    def __init__(self, source: Iterable[Batch]) -> None:
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
        while position < self._end or self._cache_next():
            self._file.seek(position)
            batch = pickle.load(self._file)
            position = self._file.tell()
            yield batch

    def _cache_next(self) -> bool:
        """Append the source's next batch to the file; return False if the source is exhausted."""
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


def mixed(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield the same images in batches of 1, 3, 64, 64, ...; the last batch may be smaller."""
    sizes = iter(_FIRST_SIZES)
    size = next(sizes)
    pending: list[Batch] = []
    for batch in batches:
        pending.append(batch)
        while _count(pending) >= size:
            images, labels = _joined(pending)
            yield images[:size], None if labels is None else labels[:size]
            pending = [(images[size:], None if labels is None else labels[size:])]
            size = next(sizes, BATCH_SIZE)
    if _count(pending):
        yield _joined(pending)


def first(batches: Iterable[Batch], count: int) -> Batch:
    """Return the first `count` images as one batch, or all if there are fewer.

    Raises:
        ExportError: there are no images, or `count` is less than 1.
    """
    read: list[Batch] = []
    for batch in batches:
        read.append(batch)
        if _count(read) >= count:
            break
    if count < 1 or not _count(read):
        raise ExportError(f"{count} images to calibrate on: the split must have one at least")
    images, labels = _joined(read)
    return images[:count], None if labels is None else labels[:count]


def _count(batches: list[Batch]) -> int:
    return sum(len(images) for images, _ in batches)


def _joined(batches: list[Batch]) -> Batch:
    labels = [labels for _, labels in batches if labels is not None]
    images = np.concatenate([images for images, _ in batches])
    return images, np.concatenate(labels) if len(labels) == len(batches) else None
