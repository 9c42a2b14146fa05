"""Adaptive batching: an idle engine runs all waiting requests as one batch.

By default, no request waits for a batch to fill. While the engine is busy, requests queue, and the
next run batches them; a single request runs alone and immediately.

Each run of the engine occupies a slot, and the number of slots limits the concurrent runs. The
threads that have no slot decode encoded images. If a slot is free, a thread decodes several
requests and then runs them as one batch.

The images of a request are decoded a few at a time; in between, the request returns to the queue.
Large images have a separate queue. Small images overtake them, at least one thread always remains
for small images, and memory is claimed before a large image is decoded.
"""

import asyncio
import contextlib
import logging
import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from keras_cnns_serve.engines.base import MAX_BATCH, Engine, Outputs
from keras_cnns_serve.errors import (
    DeadlineExceededError,
    ImageTooLargeError,
    QueueFullError,
    ServeError,
)

from .limits import Budget, Claim
from .metrics import Recorder

logger = logging.getLogger(__name__)

# A request is rejected if its estimated wait exceeds this fraction of the time until its deadline.
# The estimate is a mean. With a fraction of 1, about half of the requests that are only just
# admitted would therefore be late.
_MAX_WAIT_FRACTION = 0.8
_LOWEST_PRIORITY = 2**31  # the priority of requests that do not specify a priority
# An image is large if its memory or work, as defined in `Encoded`, exceeds these limits, which are
# about a megapixel or 5 ms. A file with more than `_LARGE_BYTES` counts as large. Its header is not
# read for this decision, because reading a header can also take long.
_LARGE_MEMORY, _LARGE_WORK, _LARGE_BYTES = 2**22, 2**22, 2**20
TIME_SLICE = 0.005  # seconds of decoding after which a request with further images queues again
OVERTAKING_SECONDS = 1.0  # seconds after which small images no longer overtake a large one
MEMORY_SECONDS = 10.0  # maximum seconds to wait for the memory to decode a large image
_DECAY = 0.9  # factor by which each run reduces the weight of earlier runs in the estimate
# Added to the niceness of the threads that run the engine. The threads that receive requests and
# send responses need only microseconds; if the engine's threads delayed them, the engine would have
# nothing to do.
_NICENESS = 5


class ClosedError(Exception):
    """The batcher accepts no more jobs, because its version is being unloaded."""


@dataclass(frozen=True)
class BatchOptions:
    """The options of batching."""

    max_batch: int = 16  # maximum number of images in one run
    # Maximum estimated seconds of one run. No result is ready before the end of its run. Long runs
    # would therefore delay the results under load.
    max_run: float = 0.1
    max_delay: float = 0.0  # seconds for which a batch waits for more images if it is not full
    max_queue: int = 1024  # maximum number of waiting requests, decoded or not


class Encoded(Protocol):
    """An encoded image whose header has been read."""

    memory: int  # peak memory of decoding, in bytes
    work: int  # number of pixels times the number of passes over them

    def read(self) -> NDArray[np.uint8]:
        """Return the pixels [H, W, C], or raise ServeError."""


class Job:
    """A waiting request and its future result."""

    __slots__ = (
        "contents",
        "count",
        "counted",
        "deadline",
        "decode",
        "decoded",
        "future",
        "images",
        "is_large",
        "is_queued",
        "large_bytes",
        "loop",
        "names",
        "pixels",
        "priority",
        "queued",
        "was_large",
    )

    def __init__(
        self,
        images: NDArray[np.uint8] | None,
        contents: Sequence[bytes],
        names: Sequence[str],
        deadline: float | None,
        priority: int,
    ) -> None:
        self.images = images  # [N, H, W, C]; None until all are decoded
        # The images that are decoded so far; None before the first and after the last image.
        self.pixels: NDArray[np.uint8] | None = None
        self.contents = contents  # the encoded images; empty after decoding has succeeded or failed
        self.decoded = 0  # number of decoded images
        self.is_large = False  # whether the next image is large
        self.names = tuple(names)  # the names of the requested outputs
        self.count = len(contents) if images is None else len(images)  # number of images
        self.was_large = False  # whether the job has been in the queue of large images
        # The bytes of `contents`. They are counted from the time at which the job enters the queue
        # of large images until all its images are decoded.
        self.large_bytes = 0
        self.counted = False  # whether the batcher's `_unfinished` includes this job's images
        self.is_queued = False  # whether the job is in a queue, and no thread works on it
        self.deadline = deadline  # time.monotonic()
        self.priority = priority or _LOWEST_PRIORITY
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Answer] = self.loop.create_future()
        self.queued = time.monotonic()
        self.decode = 0.0  # seconds of decoding

    @property
    def seconds(self) -> float:
        """Return the time from submission to the deadline; infinity without a deadline."""
        return math.inf if self.deadline is None else self.deadline - self.queued

    def add(self, pixels: NDArray[np.uint8]) -> None:
        """Store the pixels of the next image [H, W, C]."""
        if self.count == 1:
            self.images = pixels[np.newaxis]
            return
        if self.pixels is None:
            self.pixels = np.empty((self.count, *pixels.shape), np.uint8)
        self.pixels[self.decoded] = pixels
        self.decoded += 1
        if self.decoded == self.count:
            self.images, self.pixels = self.pixels, None

    def free(self) -> None:
        """Release all images."""
        self.contents, self.images, self.pixels = (), None, None

    def expire(self) -> None:
        """Set DeadlineExceededError as the result of the job, unless it already has a result."""
        if not self.future.done():
            self.future.set_exception(
                DeadlineExceededError("the request's deadline passed while the request was waiting")
            )


@dataclass(frozen=True, slots=True)
class Answer:
    """The outputs of a job, and the parts of its time, in seconds."""

    outputs: Outputs
    queue: float
    decode: float
    compute: float


class Batcher:
    """The queues of one version, and the threads that run its requests.

    Args:
        engine: the engine.
        open_image: reads the header of an encoded image; may raise ServeError.
        decode_small: called on the event loop; returns the pixels of a small image, or None for
            any other image.
        names: the names of all outputs of the engine.
        slots: maximum number of concurrent runs.
        workers: number of threads; threads without a slot decode images.
        options: the options of batching.
        recorder: records the metrics.
        budget: the memory budget for decoding large images.
        seconds_per_image: the estimated time per image while all slots are busy; 0: the first run
            gives the estimate.
    """

    def __init__(
        self,
        engine: Engine,
        open_image: Callable[[bytes], Encoded],
        decode_small: Callable[[bytes], NDArray[np.uint8] | None],
        names: Sequence[str],
        slots: int,
        workers: int,
        options: BatchOptions,
        recorder: Recorder,
        budget: Budget,
        seconds_per_image: float = 0.0,
    ) -> None:
        self.engine = engine  # may be replaced at any time
        self._open_image = open_image
        self._decode_small = decode_small
        self._names = tuple(names)
        self._options = options
        self._recorder = recorder
        self._budget = budget
        self._slots = self._free = slots
        self._idle = 0  # number of threads that wait for work
        self._decoding = 0  # number of jobs that threads are decoding
        self._closed = False
        self._encoded: deque[Job] = deque()
        self._large: deque[Job] = deque()  # jobs whose next image is large
        self._ready: deque[Job] = deque()
        self._large_threads = 0  # number of threads that decode large images
        self._max_large_threads = max(1, workers - 1)
        self._changed = threading.Condition()
        # Number of images that wait or are being processed. A large image counts only after it is
        # decoded, because other images overtake it until then.
        self._unfinished = 0
        self._large_bytes = 0  # bytes of requests whose large images wait or are being decoded
        # Weighted sums over recent runs. Their quotient estimates the time per image with all slots
        # busy.
        self._recent_seconds, self._recent_images = seconds_per_image, float(seconds_per_image > 0)
        self._threads = [
            threading.Thread(target=self._work, name="predict", daemon=True) for _ in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Return the number of waiting requests."""
        return len(self._encoded) + len(self._large) + len(self._ready)

    @property
    def _seconds_per_image(self) -> float:
        """Return the estimated time per image with all slots busy; 0 if there is no estimate."""
        return self._recent_seconds / self._recent_images if self._recent_images else 0.0

    async def answer(self, job: Job) -> Answer:
        """Put a job into the queue and return its answer; cancelling removes the job.

        Raises:
            ClosedError: the version is being unloaded; use the version that replaces it.
            QueueFullError: the queue is full, or the estimated wait is too long for the job's
                deadline.
            DeadlineExceededError: the deadline passed while the job was waiting.
            ServeError: an image cannot be decoded.
        """
        self._submit(job)
        timer = None
        if job.deadline is not None:
            timer = job.loop.call_later(max(0.0, job.deadline - time.monotonic()), job.expire)
        try:
            return await job.future
        finally:
            if timer is not None:
                timer.cancel()
            if job.is_queued:
                self._abandon(job)

    def close(self) -> None:
        """Accept no more jobs, finish the waiting jobs, and wait for the threads to end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _submit(self, job: Job) -> None:
        if job.deadline is not None and job.deadline <= job.queued:
            job.expire()
            return
        if job.images is None and job.count == 1 and self.waiting < self._options.max_queue:
            pixels = self._decode_small(job.contents[0])
            if pixels is not None:
                job.images = pixels[np.newaxis]
                job.decode = time.monotonic() - job.queued
        with self._changed:
            if self._closed:
                raise ClosedError
            if self.waiting >= self._options.max_queue:
                self._drop_finished()
            self._admit(job)
            self._enqueue(job)
            self._changed.notify()

    def _enqueue(self, job: Job) -> None:
        """Put a job into the queue for its next step.

        Raises:
            QueueFullError: its next image is large, and the limit of large images is reached.
        """
        if job.images is not None:
            queue = self._ready
            if job.was_large:
                self._count_large_bytes(job, 0)
        else:
            job.is_large = job.is_large or len(job.contents[job.decoded]) > _LARGE_BYTES
            queue = self._large if job.is_large else self._encoded
            if job.is_large and not job.was_large:
                self._admit_large(job)
        job.is_queued = True
        self._count(job, queue is not self._large)
        _insert(queue, job)

    def _count(self, job: Job, counted: bool) -> None:
        """Add the number of a job's images to the unfinished images, or subtract it."""
        self._unfinished += job.count * (counted - job.counted)
        job.counted = counted

    def _admit(self, job: Job) -> None:
        """Raise QueueFullError if the queue is full or the job would miss its deadline."""
        waiting = self.waiting
        seconds = self._seconds_per_image * (self._unfinished + job.count)
        if waiting >= self._options.max_queue:
            raise QueueFullError(
                f"{waiting} requests are already waiting, the limit of --max-queue",
                max(1, math.ceil(seconds)),
            )
        # If no request waits, admit the job: its run corrects a wrong estimate.
        if waiting and seconds > _MAX_WAIT_FRACTION * job.seconds:
            raise QueueFullError(
                f"{waiting} requests are already waiting, and the estimated wait is too long for "
                "this request's deadline",
                max(1, math.ceil(seconds)),
            )

    def _admit_large(self, job: Job) -> None:
        """Raise QueueFullError if the large images would exceed a quarter of the memory budget."""
        size = sum(map(len, job.contents))
        if self._large_bytes and self._large_bytes + size > self._budget.limit // 4:
            raise QueueFullError(
                f"{self._large_bytes / 1e6:,.0f} MB of large images are already waiting; the limit "
                "is a quarter of --memory-budget"
            )
        job.was_large = True
        self._count_large_bytes(job, size)

    def _count_large_bytes(self, job: Job, size: int) -> None:
        """Set the contribution of a job to `_large_bytes`."""
        self._large_bytes += size - job.large_bytes
        job.large_bytes = size

    def _abandon(self, job: Job) -> None:
        """Free the images of a queued job whose caller no longer waits."""
        with self._changed:
            if job.is_queued:
                self._drop(job)

    def _drop(self, job: Job) -> None:
        job.free()
        self._count(job, False)
        self._count_large_bytes(job, 0)

    def _drop_finished(self) -> None:
        """Remove jobs from the queues if their callers no longer wait."""
        for queue in (self._encoded, self._large, self._ready):
            waiting = [job for job in queue if not job.future.done()]
            for job in queue:
                if job.future.done():
                    self._drop(job)
            queue.clear()
            queue.extend(waiting)

    def _work(self) -> None:
        _lower_priority()
        while (work := self._next_work()) is not None:
            jobs, run = work
            run(jobs)

    def _next_work(self) -> tuple[list[Job], Callable[[list[Job]], None]] | None:
        """Wait for work, and return its jobs and the method for them; None after `close`.

        If a slot is free, the ready jobs are run; otherwise images are decoded.
        """
        with self._changed:
            while True:
                delay = None
                if self._large and self._large[0].queued + OVERTAKING_SECONDS < time.monotonic():
                    work = self._next_large()
                    if work is not None:
                        return work
                if self._ready and self._free > 0:
                    delay = self._remaining_delay()
                    if delay is None:
                        # Divide the jobs among all slots, including those that are still busy: they
                        # will soon be free, and would stay idle if all jobs were in one long run.
                        jobs = self._pop(self._ready, self._slots)
                        if jobs:
                            self._free -= 1
                            self._wake()
                            return jobs, self._run
                        continue
                if self._encoded:
                    to_run = self._free > 0 and not self._options.max_delay
                    jobs = self._pop(self._encoded, self._slots if to_run else self._idle + 1)
                    if jobs:
                        self._decoding += len(jobs)
                        return jobs, self._decode_and_run if to_run else self._decode_all
                    continue
                work = self._next_large()
                if work is not None:
                    return work
                if self._closed and not self.waiting and not self._decoding:
                    self._changed.notify_all()
                    return None
                self._idle += 1
                self._changed.wait(delay)
                self._idle -= 1

    def _next_large(self) -> tuple[list[Job], Callable[[list[Job]], None]] | None:
        """Return the work to decode a large image; None if no such image may be decoded now."""
        if not self._large or self._large_threads >= self._max_large_threads:
            return None
        jobs = self._pop(self._large, len(self._large))
        if not jobs:
            return None
        self._large_threads += 1
        self._decoding += 1
        return jobs, self._decode_large

    def _wake(self) -> None:
        """Wake an idle thread if there is work for it; after `close`, wake all."""
        if self._closed:
            self._changed.notify_all()
        elif self._idle and (
            (self._ready and self._free > 0)
            or self._encoded
            or (self._large and self._large_threads < self._max_large_threads)
        ):
            self._changed.notify()

    def _remaining_delay(self) -> float | None:
        """Return for how long a batch still waits for more images; None if it may run now."""
        if not self._options.max_delay or self._closed:
            return None
        images = sum(job.count for job in self._ready)
        remaining = self._ready[0].queued + self._options.max_delay - time.monotonic()
        return remaining if images < self._options.max_batch and remaining > 0 else None

    def _max_batch(self) -> int:
        """Return the maximum number of images in one run, limited by `max_batch` and `max_run`."""
        if not self._seconds_per_image:
            return self._options.max_batch
        images = self._options.max_run / (self._seconds_per_image * self._slots)
        return max(1, min(self._options.max_batch, int(images)))

    def _pop(self, queue: deque[Job], parts: int) -> list[Job]:
        """Pop a fraction 1 / `parts` of a queue, at most a batch; drop late and abandoned jobs."""
        max_jobs, max_images = math.ceil(len(queue) / parts), self._max_batch()
        now = time.monotonic()
        jobs: list[Job] = []
        images = 0
        while queue and len(jobs) < max_jobs:
            job = queue[0]
            if jobs and images + job.count > max_images:
                break
            queue.popleft()
            job.is_queued = False
            is_late = job.deadline is not None and job.deadline <= now
            if is_late or job.future.done():  # or the client disconnected
                self._drop(job)
                if is_late:
                    with contextlib.suppress(RuntimeError):  # the loop is closed
                        job.loop.call_soon_threadsafe(job.expire)
                continue
            jobs.append(job)
            images += job.count
        return jobs

    def _decode_all(self, jobs: list[Job]) -> None:
        for job in jobs:
            self._decode_some(job)
            with self._changed:
                self._decoding -= 1
                self._requeue(job)
                self._wake()

    def _decode_and_run(self, jobs: list[Job]) -> None:
        """Decode jobs; if a slot is free afterwards, run the ready jobs, at most a batch.

        The decoded jobs become ready together; otherwise another thread would run the first one
        alone.
        """
        for job in jobs:
            self._decode_some(job)
        with self._changed:
            self._decoding -= len(jobs)
            for job in jobs:
                self._requeue(job)
            jobs = self._pop(self._ready, 1) if self._free > 0 else []
            self._free -= bool(jobs)
            self._wake()
        if jobs:
            self._run(jobs)

    def _decode_large(self, jobs: list[Job]) -> None:
        """Decode a large image."""
        for job in jobs:
            self._decode_some(job)
        with self._changed:
            self._large_threads -= 1
            self._decoding -= len(jobs)
            for job in jobs:
                self._requeue(job)
            self._wake()

    def _requeue(self, job: Job) -> None:
        """Put a job into its next queue after decoding; drop it if decoding failed."""
        if job.images is None and (job.future.done() or not job.contents):
            self._drop(job)
            return
        try:
            self._enqueue(job)
        except QueueFullError as error:
            self._drop(job)
            _deliver([(job, error)])

    def _decode_some(self, job: Job) -> None:
        """Decode images of a job for about `TIME_SLICE` seconds; report a failure to the caller."""
        started = time.monotonic()
        failed: Exception | None = None
        try:
            while job.images is None and not job.future.done() and self._decode_next(job):
                if time.monotonic() - started > TIME_SLICE:
                    break
        except ServeError as error:
            failed = error
            if job.count > 1:
                failed = type(error)(f"image {job.decoded + 1} of {job.count}: {error}")
                failed.__cause__ = error
        except Exception as error:
            failed = error
        except BaseException as error:  # raised by a library; this thread must continue
            failed = _failure(error)
        job.decode += time.monotonic() - started
        if failed is not None or job.images is not None:
            job.contents = ()
        if failed is not None:
            _deliver([(job, failed)])

    def _decode_next(self, job: Job) -> bool:
        """Decode a job's next image; if it turns out to be large, return False instead.

        Raises:
            ServeError: the image cannot be decoded.
        """
        content = job.contents[job.decoded]
        if len(content) > _LARGE_BYTES and not job.is_large:
            return False
        image = self._open_image(content)
        if image.memory <= _LARGE_MEMORY and image.work <= _LARGE_WORK:
            job.add(image.read())
        elif not job.is_large:
            job.is_large = True
            return False
        else:
            with self._claim(image.memory, job):
                job.add(image.read())
        job.is_large = False
        return True

    def _claim(self, memory: int, job: Job) -> Claim:
        """Claim the memory to decode a large image; wait for it while the caller waits.

        Raises:
            ImageTooLargeError: the image needs more memory than one request can have.
            QueueFullError: the memory was not free within `MEMORY_SECONDS`.
        """
        if memory > self._budget.limit // 2:
            raise ImageTooLargeError(
                f"decoding the image needs {memory / 1e6:,.0f} MB of memory; the limit of a "
                f"request is {self._budget.limit / 2e6:,.0f} MB, half of --memory-budget"
            )
        claim = self._budget.claim()
        end = time.monotonic() + MEMORY_SECONDS
        while True:
            try:
                claim.add(memory, 0.1)
            except QueueFullError:
                if job.future.done() or time.monotonic() > end:
                    raise
            else:
                return claim

    def _run(self, jobs: list[Job]) -> None:
        results: list[tuple[Job, Answer | Exception]]
        run = _Run(jobs)
        try:
            results = self._infer(jobs, run)
        # The slot must be freed and the callers must get a result in any case.
        except BaseException as error:
            results = [(job, _failure(error)) for job in jobs]
        with self._changed:
            self._update_estimate(run)
            self._free += 1
            self._unfinished -= run.images
            self._wake()
        _deliver(results)

    def _update_estimate(self, run: "_Run") -> None:
        """Include the finished images of a run in the estimated time per image."""
        images, seconds = run.done, run.seconds + run.done * run.decode
        run.images -= images
        run.done, run.seconds = 0, 0.0
        self._unfinished -= images
        if not images:
            return
        if self._free == 0 or not self._recent_images:
            self._recent_seconds = _DECAY * self._recent_seconds + seconds / self._slots
            self._recent_images = _DECAY * self._recent_images + images
        elif seconds < images * self._seconds_per_image:
            # This run may have used all cores alone. Its time per image is then an upper bound of
            # the time per image with all slots busy.
            self._recent_seconds, self._recent_images = seconds, images

    def _infer(self, jobs: list[Job], run: "_Run") -> list[tuple[Job, "Answer | Exception"]]:
        started = time.monotonic()
        images = [job.images for job in jobs if job.images is not None]
        requested = {job.names for job in jobs}
        names = requested.pop() if len(requested) == 1 else self._names
        try:
            batch = images[0] if len(images) == 1 else np.concatenate(images)
            outputs = self._outputs(batch, names or self._names, jobs, run)
        except Exception as error:
            if len(jobs) == 1:
                return [(jobs[0], error)]
            # One of the jobs may have caused the error: run each of them alone.
            return [result for job in jobs for result in self._infer([job], run)]
        if outputs is None:
            return []
        compute = time.monotonic() - started
        self._recorder.record_run(len(batch), compute)
        results: list[tuple[Job, Answer | Exception]] = []
        first = 0
        for job in jobs:
            rows = slice(first, first + job.count)
            first += job.count
            rows_of_job = {name: outputs[name][rows] for name in job.names or self._names}
            queue = max(0.0, started - job.queued - job.decode)
            results.append((job, Answer(rows_of_job, queue, job.decode, compute)))
        return results

    def _outputs(
        self, batch: NDArray[np.uint8], names: Sequence[str], jobs: Sequence[Job], run: "_Run"
    ) -> Outputs | None:
        """Run a batch, in pieces if it is large; return None if no caller waits for it."""
        pieces: list[Outputs] = []
        for first in range(0, len(batch), MAX_BATCH):
            if first and all(job.future.done() for job in jobs):
                return None
            started = time.monotonic()
            piece = batch[first : first + MAX_BATCH]
            pieces.append(self.engine.run(piece, names))
            run.done = min(run.done + len(piece), run.images)
            run.seconds += time.monotonic() - started
            if first + MAX_BATCH < len(batch):
                with self._changed:
                    self._update_estimate(run)
        if len(pieces) == 1:
            return pieces[0]
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


class _Run:
    """How many images a run has, and how many finished ones the estimate does not include yet."""

    __slots__ = ("decode", "done", "images", "seconds")

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.images = sum([job.count for job in jobs])
        # Mean seconds to decode an image. Jobs with large images are not included, because other
        # jobs overtake them.
        self.decode = sum([job.decode for job in jobs if not job.was_large]) / self.images
        self.done = 0  # finished images
        self.seconds = 0.0


def _lower_priority() -> None:
    """Lower the priority of this thread; only Linux has a priority for each thread."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(
                os.PRIO_PROCESS,
                threading.get_native_id(),
                os.getpriority(os.PRIO_PROCESS, 0) + _NICENESS,
            )


def _failure(error: BaseException) -> Exception:
    """Wrap an exception: the event loop would end if a future raised, say, KeyboardInterrupt."""
    failure = RuntimeError(f"{type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure


def _insert(queue: deque[Job], job: Job) -> None:
    """Insert a job after all jobs whose priority is equal or higher."""
    if not queue or queue[-1].priority <= job.priority:
        queue.append(job)
    else:
        queue.insert(sum(1 for other in queue if other.priority <= job.priority), job)


def _deliver(results: Sequence[tuple[Job, Answer | Exception]]) -> None:
    """Pass the results of a batch to the event loops of its jobs, with one call for each loop."""
    loops: dict[asyncio.AbstractEventLoop, list[Any]] = {}
    for job, result in results:
        loops.setdefault(job.loop, []).append((job, result))
    for loop, results_of_loop in loops.items():
        try:
            loop.call_soon_threadsafe(_resolve, results_of_loop)
        except RuntimeError:  # the loop is closed
            count = len(results_of_loop)
            logger.debug("%d answers were dropped: their event loop is closed", count)


def _resolve(results: Sequence[tuple[Job, Answer | Exception]]) -> None:
    for job, result in results:
        if job.future.done():
            continue
        if isinstance(result, Exception):
            job.future.set_exception(result)
        else:
            job.future.set_result(result)
