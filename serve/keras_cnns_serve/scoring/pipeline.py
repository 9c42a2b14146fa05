"""Read, decode and run batches of images on all cores, and return their rows in order.

Each thread reads and decodes a whole batch, and then runs the engine on it. A run of the engine
uses one thread, and there are at most as many concurrent runs as cores. While some threads run the
engine, the other threads read and decode the next batches, so that the engine need not wait for a
disk. The number of batches in progress and the memory for decoding are bounded.
"""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from keras_cnns_serve.core.prediction import ScoredLabel
from keras_cnns_serve.core.thresholds import is_unknown
from keras_cnns_serve.engines.base import Engine
from keras_cnns_serve.errors import ServeError, one_line
from keras_cnns_serve.images.decoding import MAX_PIXELS, EncodedImage, read_small_image
from keras_cnns_serve.repository.files import ModelVersion

from .inputs import read_content
from .rows import Row

# Maximum number of batches that are in progress or wait to be written, per thread.
_BATCHES_PER_WORKER = 2
_UNCOUNTED_BYTES = 2**22  # images that need at most this memory for decoding claim none
_NOT_A_NUMBER = "the model's output is not a number"

Work = TypeVar("Work")
Result = TypeVar("Result")


class Scorer:
    """Score batches of images; thread-safe.

    Args:
        source: the version of the model.
        engine: the engine of the version, which uses one thread for a run.
        slots: the maximum number of concurrent runs.
        memory: the maximum number of bytes for all large images that are being decoded. An image
            that needs more is decoded alone.
        top_k: the number of labels of a row.
        max_pixels: the maximum size of an image.
        read: returns the content of an image.
        threshold: an image is unknown if its highest probability is lower; None: no image is
            unknown.
    """

    def __init__(
        self,
        source: ModelVersion,
        engine: Engine,
        slots: int,
        memory: int,
        top_k: int = 1,
        max_pixels: int = MAX_PIXELS,
        read: Callable[[str], bytes] = read_content,
        threshold: float | None = None,
    ) -> None:
        self._labels = source.labels
        self._preprocessing = source.manifest.preprocessing
        self._engine = engine
        self._slots = threading.Semaphore(slots)
        self._memory = _Memory(memory)
        self._top_k = top_k
        self._max_pixels = max_pixels
        self._read = read
        self._threshold = threshold

    def score(self, names: Sequence[str]) -> list[Row]:
        """Return the rows of a batch in its order; the row of an image that fails has an error."""
        rows: dict[int, Row] = {}
        pixels: dict[int, NDArray[np.uint8]] = {}
        for index, name in enumerate(names):
            try:
                pixels[index] = self._decode(self._read(name))
            except ServeError as error:
                rows[index] = Row(name, (), one_line(error))
            except Exception as error:  # one image must not end the run
                rows[index] = Row(name, (), f"the image cannot be decoded: {one_line(error)}")
        if pixels:
            for index, result in zip(pixels, self._run(list(pixels.values())), strict=True):
                best, error_text = ((), result) if isinstance(result, str) else (result, "")
                rows[index] = Row(names[index], best, error_text, self._is_unknown(best))
        return [rows[index] for index in range(len(names))]

    def _is_unknown(self, best: Sequence[ScoredLabel]) -> bool:
        if not best or self._threshold is None:
            return False
        return is_unknown(best[0].probability, self._threshold)

    def _decode(self, content: bytes) -> NDArray[np.uint8]:
        pixels = read_small_image(content, self._preprocessing, self._max_pixels)
        if pixels is not None:
            return pixels
        image = EncodedImage(content, self._preprocessing, self._max_pixels)
        if image.memory <= _UNCOUNTED_BYTES:
            return image.read()
        with self._memory.claim(image.memory):
            return image.read()

    def _run(self, pixels: Sequence[NDArray[np.uint8]]) -> list[Sequence[ScoredLabel] | str]:
        """Return the most probable labels of each image, or the message of its error."""
        try:
            with self._slots:
                outputs = self._engine.run(np.stack(pixels), ["probabilities"])
        except Exception as error:
            if len(pixels) == 1:
                return [f"the model does not run: {one_line(error)}"]
            # One image can make the run of the whole batch fail, so try each image alone.
            return [result for each in pixels for result in self._run([each])]
        return self._best(outputs["probabilities"])

    def _best(self, probabilities: NDArray[Any]) -> list[Sequence[ScoredLabel] | str]:
        if self._top_k == 1:
            order = np.argmax(probabilities, axis=1)[:, np.newaxis]
        else:
            order = np.argsort(-probabilities, axis=1, kind="stable")[:, : self._top_k]
        highest = np.take_along_axis(probabilities, order, axis=1).tolist()
        finite = np.isfinite(probabilities).all(axis=1).tolist()
        return [
            [ScoredLabel(self._labels[i], p) for i, p in zip(indices, values, strict=True)]
            if is_finite
            else _NOT_A_NUMBER
            for indices, values, is_finite in zip(order.tolist(), highest, finite, strict=True)
        ]


def work_in_order(
    work: Callable[[Work], Result], batches: Iterable[Work], workers: int
) -> Generator[Result, None, None]:
    """Yield `work(batch)` for each batch in order, computed by `workers` threads.

    At most `_BATCHES_PER_WORKER * workers` batches are in progress or wait to be consumed. If the
    iterator is closed, it waits for the batches in progress and drops the others.
    """
    with ThreadPoolExecutor(workers, "score") as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for batch in batches:
                waiting.append(pool.submit(work, batch))
                if len(waiting) >= _BATCHES_PER_WORKER * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


class _Memory:
    """A budget of memory that threads share."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def claim(self, size: int) -> Iterator[None]:
        """Wait until `size` bytes are free, and claim them.

        If `size` exceeds the budget, wait until nothing else is claimed.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + size <= self._limit)
            self._used += size
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._changed.notify_all()
