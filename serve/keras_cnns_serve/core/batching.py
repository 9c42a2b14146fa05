"""Adaptive batching: a free engine runs the requests that wait, at once.

Nobody waits for a batch to fill. While the engine is busy requests gather, and the next run takes
them together; a lone request runs alone and immediately. Encoded images are decoded by the same
threads, beside the inference of others; those that a thread decoded while a run was free go
together, and it runs them itself.

A request of several images is decoded a few at a time and waits its turn in between. Large images
wait in a queue of their own: small ones overtake them, they never have the last thread, and the
memory that decoding takes is claimed for each.
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

# The estimate of a wait is a mean: of those admitted with all their time spent in it, half would
# be late, and their inference for nothing.
MARGIN = 0.8
LAST = 2**31  # the priority of those that have none
# An image is large if it takes more: about a megapixel, some 5 ms. One of more bytes is not even
# looked at before its turn: reading a header may take a time, too.
LARGE_MEMORY, LARGE_WORK, LARGE_BYTES = 2**22, 2**22, 2**20
SLICE = 0.005  # seconds that a request of several images is decoded before others have their turn
PATIENCE = 1.0  # seconds that large images let small ones overtake them
MEMORY_SECONDS = 10.0  # that a large image waits for the memory to decode it
RECENT = 0.9  # the weight of what earlier runs took, after each run
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


class Encoded(Protocol):
    """An encoded image whose header was read."""

    memory: int  # bytes at the peak of decoding
    work: int  # pixels, as often as they are visited

    def read(self) -> NDArray[np.uint8]:
        """Return the pixels [H, W, C], or raise ServeError."""


class Job:
    """A request that waits, and its result."""

    __slots__ = (
        "contents",
        "count",
        "counted",
        "deadline",
        "decode",
        "decoded",
        "future",
        "held",
        "images",
        "large",
        "loop",
        "names",
        "overtaken",
        "pixels",
        "priority",
        "queued",
        "waits",
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
        self.pixels: NDArray[np.uint8] | None = None  # the same while they are being decoded
        self.contents = contents  # to be decoded; empty if that failed
        self.decoded = 0  # images
        self.large = False  # whether the next image is
        self.names = tuple(names)  # of the outputs wanted
        self.count = len(contents) if images is None else len(images)
        self.overtaken = False  # whether it has waited among large images
        self.held = 0  # bytes of its contents, from then until all are decoded
        self.counted = False  # whether its images are among the batcher's unfinished ones
        self.waits = False  # in a queue: no thread works on it
        self.deadline = deadline  # time.monotonic()
        self.priority = priority or LAST
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Answer] = self.loop.create_future()
        self.queued = time.monotonic()
        self.decode = 0.0  # seconds

    def add(self, pixels: NDArray[np.uint8]) -> None:
        """Take the pixels of the next image [H, W, C]."""
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
        """Hold no image any more."""
        self.contents, self.images, self.pixels = (), None, None

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
        look: reads the header of an encoded image; may raise ServeError.
        decode_small: returns the pixels of one that is small, on the event loop; None for others.
        names: all outputs of the engine.
        slots: how many runs go side by side.
        workers: threads; those that hold no slot decode.
        options: how requests are gathered.
        recorder: what is counted and timed.
        budget: of which the memory is claimed that large images take to be decoded.
        seconds_per_image: an estimate, of all slots together; 0: the first run gives one.
    """

    def __init__(
        self,
        engine: Engine,
        look: Callable[[bytes], Encoded],
        decode_small: Callable[[bytes], NDArray[np.uint8] | None],
        names: Sequence[str],
        slots: int,
        workers: int,
        options: BatchOptions,
        recorder: Recorder,
        budget: Budget,
        seconds_per_image: float = 0.0,
    ) -> None:
        self._engine = engine
        self._look = look
        self._decode_small = decode_small
        self._names = tuple(names)
        self._options = options
        self._recorder = recorder
        self._budget = budget
        self._slots = self._free = slots
        self._idle = 0  # threads that wait for work
        self._in_hand = 0  # jobs taken by a thread to be decoded
        self._closed = False
        self._encoded: deque[Job] = deque()
        self._large: deque[Job] = deque()  # those whose next image is
        self._ready: deque[Job] = deque()
        self._large_threads = 0  # that decode large images
        self._max_large_threads = max(1, workers - 1)
        self._changed = threading.Condition()
        # Images that wait or are worked on; large ones only when they are decoded: until then
        # others overtake them.
        self._unfinished = 0
        self._large_bytes = 0  # of the requests whose large images wait or are decoded
        # What recent runs took; of an image, of all slots together, it is their quotient.
        self._recent_seconds, self._recent_images = seconds_per_image, float(seconds_per_image > 0)
        self._threads = [
            threading.Thread(target=self._work, name="predict", daemon=True) for _ in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Return the number of requests that wait."""
        return len(self._encoded) + len(self._large) + len(self._ready)

    @property
    def _seconds_per_image(self) -> float:
        """Return the time of an image, of all slots together; 0 if nothing is known."""
        return self._recent_seconds / self._recent_images if self._recent_images else 0.0

    async def answer(self, job: Job) -> Answer:
        """Put a job into the queue and return its answer; cancelling removes the job.

        Raises:
            ClosedError: the version is being unloaded; ask its successor.
            QueueFullError: too many wait, or longer than the job has time.
            DeadlineExceededError: its time was over before its turn came.
            ServeError: its images cannot be decoded.
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
            if job.waits:
                self._abandon(job)

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
            self._place(job)
            self._changed.notify()

    def _place(self, job: Job) -> None:
        """Put a job into the queue of what is to be done with it next.

        Raises:
            QueueFullError: Its images are large, and as many wait as should.
        """
        if job.images is not None:
            queue = self._ready
            if job.overtaken:
                self._hold(job, 0)
        else:
            job.large = job.large or len(job.contents[job.decoded]) > LARGE_BYTES
            queue = self._large if job.large else self._encoded
            if job.large and not job.overtaken:
                self._admit_large(job)
        job.waits = True
        self._count(job, queue is not self._large)
        _insert(queue, job)

    def _count(self, job: Job, counted: bool) -> None:
        """Count the images of a job among the unfinished ones, or do not."""
        self._unfinished += job.count * (counted - job.counted)
        job.counted = counted

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

    def _admit_large(self, job: Job) -> None:
        """Raise QueueFullError if the large images that wait leave no memory to decode them."""
        size = sum(map(len, job.contents))
        if self._large_bytes and self._large_bytes + size > self._budget.limit // 4:
            raise QueueFullError(
                f"{self._large_bytes / 1e6:,.0f} MB of large images wait already, a quarter of "
                "--memory-budget"
            )
        job.overtaken = True
        self._hold(job, size)

    def _hold(self, job: Job, size: int) -> None:
        """Count so many bytes of a job among those of large images."""
        self._large_bytes += size - job.held
        job.held = size

    def _abandon(self, job: Job) -> None:
        """Free the images of a job in a queue that nobody waits for any more."""
        with self._changed:
            if job.waits:
                self._drop(job)

    def _drop(self, job: Job) -> None:
        job.free()
        self._count(job, False)
        self._hold(job, 0)

    def _forget_the_dead(self) -> None:
        for queue in (self._encoded, self._large, self._ready):
            alive = [job for job in queue if not job.future.done()]
            for job in queue:
                if job.future.done():
                    self._drop(job)
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
                if self._large and self._large[0].queued + PATIENCE < time.monotonic():
                    work = self._take_large()
                    if work is not None:
                        return work
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
                work = self._take_large()
                if work is not None:
                    return work
                if self._closed and not self.waiting and not self._in_hand:
                    self._changed.notify_all()
                    return None
                self._idle += 1
                self._changed.wait(delay)
                self._idle -= 1

    def _take_large(self) -> tuple[list[Job], Callable[[list[Job]], None]] | None:
        """Return the work to decode a large image, if one waits and a thread may do so now."""
        if not self._large or self._large_threads >= self._max_large_threads:
            return None
        jobs = self._pop(self._large, len(self._large))
        if not jobs:
            return None
        self._large_threads += 1
        self._in_hand += 1
        return jobs, self._decode_large

    def _wake(self) -> None:
        """Wake a waiting thread if there is work for it; at the end, wake all."""
        if self._closed:
            self._changed.notify_all()
        elif self._idle and (
            (self._ready and self._free > 0)
            or self._encoded
            or (self._large and self._large_threads < self._max_large_threads)
        ):
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
            job.waits = False
            late = job.deadline is not None and job.deadline <= now
            if late or job.future.done():  # its time is over, or the client hung up
                self._drop(job)
                if late:
                    with contextlib.suppress(RuntimeError):  # the loop has been closed
                        job.loop.call_soon_threadsafe(job.expire)
                continue
            jobs.append(job)
            images += job.count
        return jobs

    def _decode_all(self, jobs: list[Job]) -> None:
        for job in jobs:
            self._decode_some(job)
            with self._changed:
                self._in_hand -= 1
                self._put_back(job)
                self._wake()

    def _decode_and_run(self, jobs: list[Job]) -> None:
        """Decode for a run that is free now; if it still is then, run the jobs that are ready.

        All become ready together: another thread would take the first as soon as it is, and run it
        alone.
        """
        for job in jobs:
            self._decode_some(job)
        with self._changed:
            self._in_hand -= len(jobs)
            for job in jobs:
                self._put_back(job)
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
            self._in_hand -= len(jobs)
            for job in jobs:
                self._put_back(job)
            self._wake()

    def _put_back(self, job: Job) -> None:
        """Put a job whose images were decoded into its next queue; drop one that failed."""
        if job.images is None and (job.future.done() or not job.contents):
            self._drop(job)
            return
        try:
            self._place(job)
        except QueueFullError as error:
            self._drop(job)
            _deliver([(job, error)])

    def _decode_some(self, job: Job) -> None:
        """Decode images of a job until others have their turn; report a failure to its client."""
        started = time.monotonic()
        failed: Exception | None = None
        try:
            while job.images is None and not job.future.done() and self._decode_next(job):
                if time.monotonic() - started > SLICE:
                    break
        except ServeError as error:
            failed = error
            if job.count > 1:
                failed = type(error)(f"image {job.decoded + 1} of {job.count}: {error}")
                failed.__cause__ = error
        except Exception as error:
            failed = error
        except BaseException as error:  # a library's own; this thread goes on
            failed = _failure(error)
        job.decode += time.monotonic() - started
        if failed is not None or job.images is not None:
            job.contents = ()
        if failed is not None:
            _deliver([(job, failed)])

    def _decode_next(self, job: Job) -> bool:
        """Decode a job's next image; return False if it is large and this was not known.

        Raises:
            ServeError: It cannot be decoded.
        """
        content = job.contents[job.decoded]
        if len(content) > LARGE_BYTES and not job.large:
            return False
        image = self._look(content)
        if image.memory <= LARGE_MEMORY and image.work <= LARGE_WORK:
            job.add(image.read())
        elif not job.large:
            job.large = True
            return False
        else:
            with self._claim(image.memory, job):
                job.add(image.read())
        job.large = False
        return True

    def _claim(self, memory: int, job: Job) -> Claim:
        """Claim the memory to decode a large image, and wait for it while somebody waits for it.

        Raises:
            ImageTooLargeError: No image may take so much.
            QueueFullError: So much was never free.
        """
        if memory > self._budget.limit // 2:
            raise ImageTooLargeError(
                f"the image takes {memory / 1e6:,.0f} MB of memory to decode; one request can have "
                f"{self._budget.limit / 2e6:,.0f} MB, half of --memory-budget: send a smaller one"
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
        except BaseException as error:  # whatever it is: the slot comes back, nobody waits for ever
            results = [(job, _failure(error)) for job in jobs]
        with self._changed:
            self._learn(run)
            self._free += 1
            self._unfinished -= run.images
            self._wake()
        _deliver(results)

    def _learn(self, run: "_Run") -> None:
        """Note how long the parts of a run took that have ended."""
        images, seconds = run.done, run.seconds + run.done * run.decode
        run.images -= images
        run.done, run.seconds = 0, 0.0
        self._unfinished -= images
        if not images:
            return
        if self._free == 0 or not self._recent_images:
            self._recent_seconds = RECENT * self._recent_seconds + seconds / self._slots
            self._recent_images = RECENT * self._recent_images + images
        elif seconds < images * self._seconds_per_image:
            # A lone run may have had all cores: all slots together take no longer, and how much
            # less it does not show.
            self._recent_seconds, self._recent_images = seconds, images

    def _infer(self, jobs: list[Job], run: "_Run") -> list[tuple[Job, "Answer | Exception"]]:
        started = time.monotonic()
        images = [job.images for job in jobs if job.images is not None]
        wanted = {job.names for job in jobs}
        names = wanted.pop() if len(wanted) == 1 else self._names
        try:
            batch = images[0] if len(images) == 1 else np.concatenate(images)
            outputs = self._outputs(batch, names or self._names, jobs, run)
        except Exception as error:
            if len(jobs) == 1:
                return [(jobs[0], error)]
            # One of them may be to blame: the others deserve their answers.
            return [result for job in jobs for result in self._infer([job], run)]
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
        self, batch: NDArray[np.uint8], names: Sequence[str], jobs: Sequence[Job], run: "_Run"
    ) -> Outputs | None:
        """Run a batch, in pieces if it is large; return None once nobody waits for it."""
        pieces: list[Outputs] = []
        for first in range(0, len(batch), MAX_BATCH):
            if first and all(job.future.done() for job in jobs):
                return None
            started = time.monotonic()
            piece = batch[first : first + MAX_BATCH]
            pieces.append(self._engine.run(piece, names))
            run.done = min(run.done + len(piece), run.images)
            run.seconds += time.monotonic() - started
            if first + MAX_BATCH < len(batch):
                with self._changed:
                    self._learn(run)
        if len(pieces) == 1:
            return pieces[0]
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


class _Run:
    """What is left of a run, and what has ended and is not accounted for yet."""

    __slots__ = ("decode", "done", "images", "seconds")

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.images = sum([job.count for job in jobs])
        # Seconds of an image; large ones were decoded while others overtook them.
        self.decode = sum([job.decode for job in jobs if not job.overtaken]) / self.images
        self.done = 0  # images
        self.seconds = 0.0


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
