"""Adaptive batching: a free engine runs the requests that wait, at once.

Nobody waits for a batch to fill. While the engine is busy requests gather, and the next run takes
them together; a lone request runs alone and immediately. Encoded images are decoded by the same
threads, beside the inference of others; those that a thread decoded while a run was free go
together, and it runs them itself.
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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_cnns_serve.engines.base import MAX_BATCH, Engine, Outputs
from keras_cnns_serve.errors import DeadlineExceededError, QueueFullError, ServeError

from .metrics import Recorder

logger = logging.getLogger(__name__)

# The estimate of a wait is a mean: of those admitted with all their time spent in it, half would
# be late, and their inference for nothing.
MARGIN = 0.8
LAST = 2**31  # the priority of those that have none
# Added to the niceness of the threads that run the engine: the threads that receive and answer work
# for microseconds, and an engine that keeps a core from them leaves the others without work.
NICENESS = 5


class ClosedError(Exception):
    """The batcher accepts no more jobs: its version is being unloaded."""


@dataclass(frozen=True)
class BatchOptions:
    """How requests are gathered."""

    max_batch: int = 16  # images in one run
    # Seconds in one run: the answers of a long one come together, and under load all too late.
    max_run: float = 0.1
    max_delay: float = 0.0  # seconds that a run waits for more images, if it is not full
    max_queue: int = 1024  # requests that wait, decoded or not


class Job:
    """A request that waits, and its result."""

    __slots__ = (
        "contents",
        "count",
        "deadline",
        "decode",
        "future",
        "images",
        "loop",
        "names",
        "priority",
        "queued",
    )

    def __init__(
        self,
        images: NDArray[np.uint8] | None,
        contents: Sequence[bytes],
        names: Sequence[str],
        deadline: float | None,
        priority: int,
    ) -> None:
        self.images = images  # [N, H, W, C]; None until decoded
        self.contents = contents
        self.names = tuple(names)  # of the outputs wanted
        self.count = len(contents) if images is None else len(images)
        self.deadline = deadline  # time.monotonic()
        self.priority = priority or LAST
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Answer] = self.loop.create_future()
        self.queued = time.monotonic()
        self.decode = 0.0  # seconds

    def expire(self) -> None:
        """Fail with DeadlineExceededError, unless there is an answer."""
        if not self.future.done():
            self.future.set_exception(
                DeadlineExceededError("the request's time was over before its turn came")
            )


@dataclass(frozen=True, slots=True)
class Answer:
    """The outputs of one job, and the parts of its time, in seconds."""

    outputs: Outputs
    queue: float
    decode: float
    compute: float


class Batcher:
    """The queue of one version, and the threads that run its requests.

    Args:
        engine: what runs.
        decode: an encoded image to pixels [H, W, C]; may raise ServeError.
        decode_small: the same at once for one that is small, on the event loop; None for others.
        names: all outputs of the engine.
        slots: how many runs go side by side.
        workers: threads; those that hold no slot decode.
        options: how requests are gathered.
        recorder: what is counted and timed.
        seconds_per_image: an estimate, of all slots together; 0: the first run gives one.
    """

    def __init__(
        self,
        engine: Engine,
        decode: Callable[[bytes], NDArray[np.uint8]],
        decode_small: Callable[[bytes], NDArray[np.uint8] | None],
        names: Sequence[str],
        slots: int,
        workers: int,
        options: BatchOptions,
        recorder: Recorder,
        seconds_per_image: float = 0.0,
    ) -> None:
        self._engine = engine
        self._decode = decode
        self._decode_small = decode_small
        self._names = tuple(names)
        self._options = options
        self._recorder = recorder
        self._slots = self._free = slots
        self._idle = 0  # threads that wait for work
        self._in_hand = 0  # jobs taken by a thread to be decoded
        self._closed = False
        self._encoded: deque[Job] = deque()
        self._ready: deque[Job] = deque()
        self._changed = threading.Condition()
        self._unfinished = 0  # images that wait or are worked on
        self._seconds_per_image = seconds_per_image  # of all slots together; a moving average
        self._threads = [
            threading.Thread(target=self._work, name="predict", daemon=True) for _ in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Return the number of requests that wait."""
        return len(self._encoded) + len(self._ready)

    async def answer(self, job: Job) -> Answer:
        """Put a job into the queue and return its answer; cancelling removes the job.

        Raises:
            ClosedError: the version is being unloaded; ask its successor.
            QueueFullError: too many wait, or longer than the job has time.
            DeadlineExceededError: its time was over before its turn came.
            ServeError: its images cannot be decoded.
        """
        self._submit(job)
        if job.deadline is None:
            return await job.future
        timer = job.loop.call_later(max(0.0, job.deadline - time.monotonic()), job.expire)
        try:
            return await job.future
        finally:
            timer.cancel()

    def close(self) -> None:
        """Accept no more jobs, finish those that wait, and return when the threads have ended."""
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
                self._forget_the_dead()
            self._admit(job)
            self._unfinished += job.count
            _insert(self._encoded if job.images is None else self._ready, job)
            self._changed.notify()

    def _admit(self, job: Job) -> None:
        """Raise QueueFullError for a job that would wait in vain."""
        waiting = self.waiting
        seconds = self._seconds_per_image * (self._unfinished + job.count)
        if waiting >= self._options.max_queue:
            raise QueueFullError(f"{waiting} requests wait already", max(1, math.ceil(seconds)))
        # Not where nobody waits: what runs then shows whether the estimate is right.
        if waiting and job.deadline is not None and seconds > MARGIN * (job.deadline - job.queued):
            raise QueueFullError(
                f"{waiting} requests wait already, longer than this one has time",
                max(1, math.ceil(seconds)),
            )

    def _forget_the_dead(self) -> None:
        for queue in (self._encoded, self._ready):
            alive = [job for job in queue if not job.future.done()]
            self._unfinished -= sum(job.count for job in queue) - sum(job.count for job in alive)
            queue.clear()
            queue.extend(alive)

    def _work(self) -> None:
        _lower_priority()
        while (work := self._take()) is not None:
            jobs, run = work
            run(jobs)

    def _take(self) -> tuple[list[Job], Callable[[list[Job]], None]] | None:
        """Wait for work: to run ready jobs if a slot is free, or else to decode."""
        with self._changed:
            while True:
                delay = None
                if self._ready and self._free > 0:
                    delay = self._wanted_delay()
                    if delay is None:
                        # A share for every slot, free or not: the one that is busy comes back
                        # soon, and should not find that this one took all for long.
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
                        self._in_hand += len(jobs)
                        return jobs, self._decode_and_run if to_run else self._decode_all
                    continue
                if self._closed and not self._ready and not self._in_hand:
                    self._changed.notify_all()
                    return None
                self._idle += 1
                self._changed.wait(delay)
                self._idle -= 1

    def _wake(self) -> None:
        """Wake a waiting thread if a slot is free and a job is ready; at the end, wake all."""
        if self._closed:
            self._changed.notify_all()
        elif self._ready and self._free > 0 and self._idle:
            self._changed.notify()

    def _wanted_delay(self) -> float | None:
        """Return the seconds that a run should still wait for more images; None for none."""
        if not self._options.max_delay or self._closed:
            return None
        images = sum(job.count for job in self._ready)
        remaining = self._ready[0].queued + self._options.max_delay - time.monotonic()
        return remaining if images < self._options.max_batch and remaining > 0 else None

    def _max_batch(self) -> int:
        """Return the limit of images in one run: by their number, and by the time they take."""
        if not self._seconds_per_image:
            return self._options.max_batch
        images = self._options.max_run / (self._seconds_per_image * self._slots)
        return max(1, min(self._options.max_batch, int(images)))

    def _pop(self, queue: deque[Job], among: int) -> list[Job]:
        """Return a fair part of a queue, at most a batch, and drop jobs that nobody waits for."""
        share, limit = math.ceil(len(queue) / among), self._max_batch()
        now = time.monotonic()
        jobs: list[Job] = []
        images = 0
        while queue and len(jobs) < share:
            job = queue[0]
            if jobs and images + job.count > limit:
                break
            queue.popleft()
            late = job.deadline is not None and job.deadline <= now
            if late or job.future.done():  # its time is over, or the client hung up
                self._unfinished -= job.count
                if late:
                    with contextlib.suppress(RuntimeError):  # the loop has been closed
                        job.loop.call_soon_threadsafe(job.expire)
                continue
            jobs.append(job)
            images += job.count
        return jobs

    def _decode_all(self, jobs: list[Job]) -> None:
        for job in jobs:
            self._decode_one(job)
            with self._changed:
                self._in_hand -= 1
                if job.images is not None:
                    _insert(self._ready, job)
                self._wake()

    def _decode_and_run(self, jobs: list[Job]) -> None:
        """Decode for a run that is free now; if it still is then, run the jobs that are ready.

        All become ready together: another thread would take the first as soon as it is, and run it
        alone.
        """
        for job in jobs:
            self._decode_one(job)
        with self._changed:
            self._in_hand -= len(jobs)
            for job in jobs:
                if job.images is not None:
                    _insert(self._ready, job)
            jobs = self._pop(self._ready, 1) if self._free > 0 else []
            self._free -= bool(jobs)
            self._wake()
        if jobs:
            self._run(jobs)

    def _decode_one(self, job: Job) -> None:
        """Decode the images of a job; report a failure to its client."""
        started = time.monotonic()
        failed: Exception | None = None
        try:
            job.images = self._pixels(job)
        except Exception as error:
            failed = error
        except BaseException as error:  # a library's own; this thread goes on
            failed = _failure(error)
        job.contents = ()
        job.decode = time.monotonic() - started
        if job.images is None:
            with self._changed:
                self._unfinished -= job.count
        if failed is not None:
            _deliver([(job, failed)])

    def _pixels(self, job: Job) -> NDArray[np.uint8] | None:
        """Return a job's decoded images, [N, H, W, C], or None once nobody waits for them.

        Raises:
            ServeError: one cannot be; of several, the error has its number.
        """
        images = []
        for number, content in enumerate(job.contents, start=1):
            if job.future.done():
                return None
            try:
                images.append(self._decode(content))
            except ServeError as error:
                if job.count == 1:
                    raise
                raise type(error)(f"image {number} of {job.count}: {error}") from error
        return images[0][np.newaxis] if len(images) == 1 else np.stack(images)

    def _run(self, jobs: list[Job]) -> None:
        started = time.monotonic()
        results: list[tuple[Job, Answer | Exception]]
        try:
            results = self._infer(jobs)
        except BaseException as error:  # whatever it is: the slot comes back, nobody waits for ever
            results = [(job, _failure(error)) for job in jobs]
        seconds = time.monotonic() - started + sum(job.decode for job in jobs)
        with self._changed:
            # A lone run may have had all cores: it does not show what all slots do together.
            full = self._free == 0
            self._free += 1
            images = sum(job.count for job in jobs)
            self._unfinished -= images
            each = seconds / images / self._slots
            if not self._seconds_per_image:
                self._seconds_per_image = each
            elif full:
                self._seconds_per_image += 0.1 * (each - self._seconds_per_image)
            self._wake()
        _deliver(results)

    def _infer(self, jobs: list[Job]) -> list[tuple[Job, "Answer | Exception"]]:
        started = time.monotonic()
        images = [job.images for job in jobs if job.images is not None]
        wanted = {job.names for job in jobs}
        names = wanted.pop() if len(wanted) == 1 else self._names
        try:
            batch = images[0] if len(images) == 1 else np.concatenate(images)
            outputs = self._outputs(batch, names or self._names, jobs)
        except Exception as error:
            if len(jobs) == 1:
                return [(jobs[0], error)]
            # One of them may be to blame: the others deserve their answers.
            return [result for job in jobs for result in self._infer([job])]
        if outputs is None:
            return []
        compute = time.monotonic() - started
        self._recorder.ran(len(batch), compute)
        results: list[tuple[Job, Answer | Exception]] = []
        first = 0
        for job in jobs:
            rows = slice(first, first + job.count)
            first += job.count
            mine = {name: outputs[name][rows] for name in job.names or self._names}
            queue = max(0.0, started - job.queued - job.decode)
            results.append((job, Answer(mine, queue, job.decode, compute)))
        return results

    def _outputs(
        self, batch: NDArray[np.uint8], names: Sequence[str], jobs: Sequence[Job]
    ) -> Outputs | None:
        """Run a batch, in pieces if it is large; return None once nobody waits for it."""
        pieces: list[Outputs] = []
        for first in range(0, len(batch), MAX_BATCH):
            if first and all(job.future.done() for job in jobs):
                return None
            pieces.append(self._engine.run(batch[first : first + MAX_BATCH], names))
        if len(pieces) == 1:
            return pieces[0]
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _lower_priority() -> None:
    """Let this thread yield to others; only Linux has a priority for each thread."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(
                os.PRIO_PROCESS,
                threading.get_native_id(),
                os.getpriority(os.PRIO_PROCESS, 0) + NICENESS,
            )


def _failure(error: BaseException) -> Exception:
    """Return an error that a future accepts: it refuses some."""
    failure = RuntimeError(f"{type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure


def _insert(queue: deque[Job], job: Job) -> None:
    """Put a job after those of its priority, and before those that can wait longer."""
    if not queue or queue[-1].priority <= job.priority:
        queue.append(job)
    else:
        queue.insert(sum(1 for other in queue if other.priority <= job.priority), job)


def _deliver(results: Sequence[tuple[Job, Answer | Exception]]) -> None:
    """Pass the results of a batch to the event loops that wait for them, one call for each."""
    loops: dict[asyncio.AbstractEventLoop, list[Any]] = {}
    for job, result in results:
        loops.setdefault(job.loop, []).append((job, result))
    for loop, mine in loops.items():
        try:
            loop.call_soon_threadsafe(_resolve, mine)
        except RuntimeError:  # the loop has been closed: nobody waits
            logger.debug("nobody waits for %d answers", len(mine))


def _resolve(results: Sequence[tuple[Job, Answer | Exception]]) -> None:
    for job, result in results:
        if job.future.done():
            continue
        if isinstance(result, Exception):
            job.future.set_exception(result)
        else:
            job.future.set_result(result)
