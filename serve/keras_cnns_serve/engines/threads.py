"""Choose the number of threads for one image, and correct the choice while serving."""

import hashlib
import logging
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from keras_cnns_serve.errors import VersionRefusedError
from keras_cnns_serve.repository.manifest import Manifest

from .base import LoadedEngine, Names, Outputs, black_image
from .golden import DisagreementError
from .trial import call

logger = logging.getLogger(__name__)

_SHORT = 1e-3  # seconds; if an image takes less, waking up another thread takes too long
LONG = 10e-3  # seconds; if an image takes more, all cores nearly always give enough speedup
_MIN_GAIN = 1.3  # all cores are chosen if they speed up a single request by at least this factor
_MAX_LOSS = 1.1  # speedup below which all cores are no longer chosen
_RUNS = 5  # maximum number of runs in a measurement
_RUN_SECONDS = 0.1  # maximum seconds of a measurement
CALM_SECONDS = 1.0  # maximum seconds to wait for a calm machine
_PROBE_SECONDS = 0.02  # seconds of a computation that shows whether a core is free
# On a calm machine, the CPU time of a thread is at least this fraction of the wall time.
_CALM_FRACTION = 0.9
PAIRS = 9  # number of comparisons before a decision while serving
# Number of single-image runs per comparison. Two of them use the engine that is not chosen.
PERIOD = 256
UNSURE_PERIOD = 16  # number of single-image runs per comparison if the choice was not measured


class Key(NamedTuple):
    """The properties on which a choice depends."""

    sha256: str  # checksum of the graph's file
    engine: str
    precision: str
    cores: int


@dataclass
class Choice:
    """The number of threads for one image; `Elastic` corrects it while serving."""

    threads: int  # maximum for a single request
    both: bool  # whether the graph is loaded twice: for one thread and for all cores
    reason: str  # the explanation of the choice, for the log
    seconds: float  # time of an image when all cores are busy with different images
    measured: bool = True  # False: the choice is a default


_choices: dict[Key, Choice] = {}  # kept so that a reloaded version is not measured again


class Elastic:
    """Use all cores for each run if there are few concurrent runs, and one core if there are many.

    The class also corrects the choice. Three of every `PERIOD` runs of a single image form a
    comparison: one run by the chosen engine and two by the other engine, of which only the second
    is counted. A comparison is used only if no other run began during its two counted runs, and if
    the machine was calm: in each of these two runs, the CPU time of the process was at least 90 %
    of the wall time. After `PAIRS` comparisons, the median speedup of all cores over one core
    decides. If it is above `_MIN_GAIN`, single runs get all cores. If it is below `_MAX_LOSS`, they
    get one core. Otherwise, the choice stays.

    Args:
        one_thread: the engine with one thread for a run.
        all_threads: the engine with all cores for a run.
        max_shared: the maximum number of concurrent runs that share all cores.
        cores: the number of cores.
        choice: the choice, which is updated.
        name: the name of the version, for the log.
    """

    def __init__(
        self,
        one_thread: LoadedEngine,
        all_threads: LoadedEngine,
        max_shared: int,
        cores: int,
        choice: Choice,
        name: str,
    ) -> None:
        self._one_thread = one_thread
        self._all_threads = all_threads
        self._max_shared = max_shared
        self._cores = cores
        self._choice = choice
        self._name = name
        self._running = 0
        self._begun = 0  # number of runs that began
        # Number of single-image runs that began while no other run was in progress.
        self._single = 0
        # Seconds of the runs in a comparison. The key is whether all cores were used.
        self._seconds: dict[bool, float] = {}
        self._pairs: deque[tuple[float, float]] = deque()  # seconds: one_thread, all_threads
        self._lock = threading.Lock()

    def run(self, images: NDArray[np.uint8], names: Names = None) -> Outputs:
        """Map uint8 pixels [N, H, W, C] to the outputs [N, ...] in `names`; None: all outputs."""
        with self._lock:
            all_cores = self._running < self._max_shared and self._choice.threads > 1
            remaining = PERIOD  # number of single runs until the next comparison ends
            if self._running == 0 and len(images) == 1:
                self._single += 1
                period = PERIOD if self._choice.measured else UNSURE_PERIOD
                remaining = -self._single % period
                all_cores ^= remaining < 2
            self._running += 1
            self._begun += 1
            begun = self._begun
        engine = self._all_threads if all_cores else self._one_thread
        if remaining not in (0, 2):
            try:
                return engine.run(images, names)
            finally:
                with self._lock:
                    self._running -= 1
        started, cpu = time.perf_counter(), time.process_time()
        try:
            return engine.run(images, names)
        finally:
            seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
            with self._lock:
                self._running -= 1
                calm = begun == self._begun and cpu >= _CALM_FRACTION * seconds
                self._compare(all_cores, seconds if calm else 0.0, remaining == 0)

    def shrink(self) -> None:
        """Free memory that only large batches need."""
        self._one_thread.shrink()
        self._all_threads.shrink()

    def _compare(self, all_cores: bool, seconds: float, is_last: bool) -> None:
        """Record the seconds of a run in a comparison; 0 if the run does not count."""
        if not is_last:
            self._seconds.clear()
        if seconds:
            self._seconds[all_cores] = seconds
        if is_last and len(self._seconds) == 2:
            self._pairs.append((self._seconds[False], self._seconds[True]))
            if len(self._pairs) == PAIRS:
                self._decide()

    def _decide(self) -> None:
        one, all_cores = (statistics.median(seconds) for seconds in zip(*self._pairs, strict=True))
        gain = statistics.median(
            one_thread / all_threads for one_thread, all_threads in self._pairs
        )
        self._pairs.clear()
        before = self._choice.threads
        threads = self._cores if gain > _MIN_GAIN else 1 if gain < _MAX_LOSS else before
        if threads != before or not self._choice.measured:
            reason = _reason(one, all_cores, threads > 1)
            self._choice.reason = f"{reason}, measured while serving"
        self._choice.threads, self._choice.measured = threads, True
        if threads != before:
            limit = f"{threads} thread{'s' if threads > 1 else ''}"
            reason = self._choice.reason
            logger.info("%s: at most %s per image, because %s", self._name, limit, reason)


def choose_threads(
    open_engine: Callable[[int], LoadedEngine],
    manifest: Manifest,
    max_shared: int,
    key: Key,
    name: str,
    calm: Callable[[int], bool] | None = None,
) -> tuple[LoadedEngine, Choice]:
    """Choose the number of threads by measuring whether a single image is faster on all cores.

    The operators of a small network are too short to parallelise. A large network is faster with
    all cores for a single request, and with one thread per request for concurrent requests, so it
    is loaded twice. Earlier choices are reused. A measurement counts only if the machine is calm
    before and after it. If the machine does not become calm within `CALM_SECONDS`, nothing is
    measured. The graph is then loaded twice in any case. A single request gets all cores if the
    time of an image is at least `LONG`, otherwise one core. `Elastic` corrects this choice while
    serving.

    Args:
        open_engine: loads the network for a number of threads.
        manifest: the manifest, with the size of an image.
        max_shared: the maximum number of concurrent runs that share all cores.
        key: the key under which the choice is remembered.
        name: the name of the version, for the log.
        calm: returns whether a given number of cores is free; by default `is_calm`.

    Returns:
        The engine, and the choice.
    """
    one_thread = open_engine(1)
    image = black_image(manifest)
    choice = _choices.get(key)
    seconds = 0.0
    if choice is None:
        one = time_run(one_thread, image)
        works = [call(lambda: time_run(one_thread, image)) for _ in range(key.cores)]
        seconds = statistics.median(work.result() for work in works) / key.cores
        if one < _SHORT:
            reason = f"an image takes {_spell(one)}, which is too short to use several cores"
            choice = _choices[key] = Choice(1, False, reason, seconds)
    if choice is not None and not choice.both:
        return one_thread, choice
    try:
        all_threads = open_engine(key.cores)
    except DisagreementError as error:
        logger.warning("%s: one thread per image, because with all cores %s", name, error)
        return one_thread, Choice(1, False, f"with all cores {error}", seconds)
    except VersionRefusedError as error:  # perhaps there is too little memory for two graphs
        logger.warning(
            "%s: one thread per image, because the graph cannot be loaded again for all cores: %s",
            name,
            error,
        )
        return one_thread, Choice(
            1, False, "the graph could not be loaded again for all cores", seconds
        )
    if choice is None:
        choice = _measure(one_thread, all_threads, image, key.cores, seconds, calm or is_calm)
        _choices[key] = choice
    if not choice.both:
        return one_thread, choice
    return Elastic(one_thread, all_threads, max_shared, key.cores, choice, name), choice


def _measure(
    one_thread: LoadedEngine,
    all_threads: LoadedEngine,
    image: NDArray[Any],
    cores: int,
    seconds: float,
    calm: Callable[[int], bool],
) -> Choice:
    end = time.perf_counter() + CALM_SECONDS
    while time.perf_counter() < end:
        if not calm(cores):
            continue
        one, all_cores = time_run(one_thread, image), time_run(all_threads, image)
        if calm(cores):
            faster = one > _MIN_GAIN * all_cores
            reason = _reason(one, all_cores, faster)
            return Choice(cores if faster else 1, faster, reason, seconds)
    # Measure the CPU time of this process, on which other processes have little influence.
    one = time_run(one_thread, image, time.process_time)
    reason = f"an image takes {_spell(one)}; other processes prevent a measurement"
    return Choice(cores if one >= LONG else 1, True, reason, seconds, measured=False)


def is_calm(cores: int) -> bool:
    """Return whether `cores` threads can compute without waiting for a core."""
    return all(work.result() for work in [call(_has_a_core) for _ in range(cores)])


def _has_a_core() -> bool:
    """Return whether this thread has a core for almost the whole time of a computation."""
    started, cpu = time.perf_counter(), time.thread_time()
    block = bytes(2**18)
    while (wall := time.perf_counter() - started) < _PROBE_SECONDS:
        hashlib.sha256(block).digest()  # releases the interpreter's lock
    return time.thread_time() - cpu >= _CALM_FRACTION * wall


def time_run(
    engine: LoadedEngine, image: NDArray[Any], clock: Callable[[], float] = time.perf_counter
) -> float:
    """Return the shortest time of a run; the first run is not counted."""
    engine.run(image)
    times: list[float] = []
    while len(times) < _RUNS and sum(times) < _RUN_SECONDS:
        started = clock()
        engine.run(image)
        times.append(clock() - started)
    return min(times)


def _reason(one: float, all_cores: float, faster: bool) -> str:
    times = f"({_spell(all_cores)} against {_spell(one)})"
    if faster:
        return f"a single image is faster with all cores {times}"
    return f"a single image is not {_MIN_GAIN} times as fast with all cores {times}"


def _spell(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.2f} ms"
