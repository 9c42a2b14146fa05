"""Choose how many threads work on one image, and correct the choice while serving."""

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

from .base import LoadedEngine, Names, Outputs
from .trial import call

logger = logging.getLogger(__name__)

SHORT = 1e-3  # seconds; an image that takes less is not worth waking a thread for
LONG = 10e-3  # seconds; of an image that takes more, all cores nearly always bring GAIN
GAIN = 1.3  # that all cores must bring to a lone request, or they are not chosen
LOSS = 1.1  # a smaller gain, and all cores are no longer chosen
RUNS = 5  # to measure; a slow network is measured once
RUN_SECONDS = 0.1  # after which measuring ends
CALM_SECONDS = 1.0  # to wait for a calm machine
PROBE = 0.02  # seconds of work that show whether a core is free
UNDISTURBED = 0.9  # the fraction of its time that a thread has a core, on a calm machine
PAIRS = 9  # comparisons while serving that decide
PERIOD = 256  # lone runs for a comparison; below 1 % of them are by the engine not chosen
UNSURE_PERIOD = 16  # the same while the choice is a default


class Key(NamedTuple):
    """What a choice depends on."""

    sha256: str  # of the graph's file
    engine: str
    precision: str
    cores: int


@dataclass
class Choice:
    """How many threads work on one image; corrected while serving."""

    threads: int  # for a lone request, at most
    both: bool  # whether the graph is loaded for one thread, and again for all cores
    reason: str  # for people
    seconds: float  # for one of many images side by side
    measured: bool = True  # or a default


_choices: dict[Key, Choice] = {}  # of this process: neither reloads nor equal files measure again


class Elastic:
    """Give all cores to each run while runs are few, and one core to each when they are many.

    It also corrects the choice. Of `PERIOD` lone runs of one image, three are a comparison:
    one by the engine that was chosen and two by the other, whose first is not counted. It counts if
    no other run began meanwhile, and if the machine was calm: the process had a core, by its CPU
    time, for almost all of the time of both. The median gain of `PAIRS` comparisons decides: above
    `GAIN` lone runs get all cores, below `LOSS` one, and between them the choice stays.

    Args:
        alone: The engine with one thread for a run.
        shared: The engine with all cores for a run.
        few: How many runs may share all cores.
        cores: How many there are.
        choice: Whether they do.
        name: The graph's, for the log.
    """

    def __init__(
        self,
        alone: LoadedEngine,
        shared: LoadedEngine,
        few: int,
        cores: int,
        choice: Choice,
        name: str,
    ) -> None:
        self._alone = alone
        self._shared = shared
        self._few = few
        self._cores = cores
        self._choice = choice
        self._name = name
        self._running = 0
        self._begun = 0  # runs
        self._lone = 0  # runs of one image that began beside no other
        self._seconds: dict[bool, float] = {}  # by whether all cores were used
        self._pairs: deque[tuple[float, float]] = deque()  # seconds: alone, shared
        self._lock = threading.Lock()

    def run(self, images: NDArray[np.uint8], names: Names = None) -> Outputs:
        """Map uint8 pixels [N, H, W, C] to outputs, each [N, ...]: those named, or all."""
        with self._lock:
            share = self._running < self._few and self._choice.threads > 1
            left = PERIOD
            if self._running == 0 and len(images) == 1:
                self._lone += 1
                period = PERIOD if self._choice.measured else UNSURE_PERIOD
                left = -self._lone % period
                share ^= left < 2
            self._running += 1
            self._begun += 1
            begun = self._begun
        engine = self._shared if share else self._alone
        if left not in (0, 2):
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
                calm = begun == self._begun and cpu >= UNDISTURBED * seconds
                self._compare(share, seconds if calm else 0.0, left == 0)

    def shrink(self) -> None:
        """Free what only a large batch needs."""
        self._alone.shrink()
        self._shared.shrink()

    def _compare(self, share: bool, seconds: float, last: bool) -> None:
        """Note a run of a comparison; 0 seconds for one that does not count."""
        if not last:
            self._seconds.clear()
        if seconds:
            self._seconds[share] = seconds
        if last and len(self._seconds) == 2:
            self._pairs.append((self._seconds[False], self._seconds[True]))
            if len(self._pairs) == PAIRS:
                self._decide()

    def _decide(self) -> None:
        one, all_cores = (statistics.median(seconds) for seconds in zip(*self._pairs, strict=True))
        gain = statistics.median(alone / shared for alone, shared in self._pairs)
        self._pairs.clear()
        before = self._choice.threads
        threads = self._cores if gain > GAIN else 1 if gain < LOSS else before
        if threads != before or not self._choice.measured:
            reason = _reason(one, all_cores, threads > 1)
            self._choice.reason = f"{reason}, measured while serving"
        self._choice.threads, self._choice.measured = threads, True
        if threads != before:
            most = f"{threads} thread{'s' if threads > 1 else ''}"
            logger.info("%s: at most %s per image: %s", self._name, most, self._choice.reason)


def choose_threads(
    open_engine: Callable[[int], LoadedEngine],
    manifest: Manifest,
    few: int,
    key: Key,
    name: str,
    calm: Callable[[int], bool] | None = None,
) -> tuple[LoadedEngine, Choice]:
    """Measure whether all cores make a lone image faster, unless this was measured before.

    The operators of a small network are too short to share. A large one answers a lone request
    faster with all cores and is then loaded twice, because many requests side by side do best
    with one thread each. A measurement counts if the machine is calm before and after it. If it
    is not calm within `CALM_SECONDS`, the length of an image decides: from `LONG` on, a lone
    request gets all cores. The graph is then loaded twice in any case, and serving corrects this.

    Args:
        open_engine: Loads the network for a number of threads.
        manifest: Says what an image is.
        few: How many runs may share all cores.
        key: What the choice is remembered by.
        name: The graph's, for the log.
        calm: Returns whether so many cores are free; by default it measures.
    """
    alone = open_engine(1)
    height, width = manifest.preprocessing.crop
    image = np.zeros((1, height, width, manifest.preprocessing.channels), np.uint8)
    choice = _choices.get(key)
    seconds = 0.0
    if choice is None:
        one = _seconds(alone, image)
        works = [call(lambda: _seconds(alone, image)) for _ in range(key.cores)]
        seconds = statistics.median(work.result() for work in works) / key.cores
        if one < SHORT:
            reason = f"an image takes {_spell(one)}, too short to share"
            choice = _choices[key] = Choice(1, False, reason, seconds)
    if choice is not None and not choice.both:
        return alone, choice
    try:
        shared = open_engine(key.cores)
    except VersionRefusedError as error:  # twice may be more than the memory holds
        logger.warning("one thread per image: loaded for all cores, %s", error)
        return alone, Choice(
            1, False, "it could not be loaded a second time for all cores", seconds
        )
    if choice is None:
        choice = _measure(alone, shared, image, key.cores, seconds, calm or _calm)
        _choices[key] = choice
    if not choice.both:
        return alone, choice
    return Elastic(alone, shared, few, key.cores, choice, name), choice


def _measure(
    alone: LoadedEngine,
    shared: LoadedEngine,
    image: NDArray[Any],
    cores: int,
    seconds: float,
    calm: Callable[[int], bool],
) -> Choice:
    end = time.perf_counter() + CALM_SECONDS
    while time.perf_counter() < end:
        if not calm(cores):
            continue
        one, all_cores = _seconds(alone, image), _seconds(shared, image)
        if calm(cores):
            faster = one > GAIN * all_cores
            reason = _reason(one, all_cores, faster)
            return Choice(cores if faster else 1, faster, reason, seconds)
    one = _seconds(alone, image, time.process_time)  # which others do not lengthen
    reason = f"an image takes {_spell(one)}, and other processes keep the cores from a measurement"
    return Choice(cores if one >= LONG else 1, True, reason, seconds, measured=False)


def _calm(cores: int) -> bool:
    """Return whether so many threads that compute have a core for themselves."""
    return all(work.result() for work in [call(_undisturbed) for _ in range(cores)])


def _undisturbed() -> bool:
    started, cpu = time.perf_counter(), time.thread_time()
    block = bytes(2**18)
    while (wall := time.perf_counter() - started) < PROBE:
        hashlib.sha256(block).digest()  # it computes without the interpreter's lock
    return time.thread_time() - cpu >= UNDISTURBED * wall


def _seconds(
    engine: LoadedEngine, image: NDArray[Any], clock: Callable[[], float] = time.perf_counter
) -> float:
    """Return the shortest time of a run; the first run is not counted."""
    engine.run(image)
    times: list[float] = []
    while len(times) < RUNS and sum(times) < RUN_SECONDS:
        started = clock()
        engine.run(image)
        times.append(clock() - started)
    return min(times)


def _reason(one: float, all_cores: float, faster: bool) -> str:
    times = f"({_spell(all_cores)} against {_spell(one)})"
    if faster:
        return f"all cores make a lone image faster {times}"
    return f"all cores do not make a lone image {GAIN} times as fast {times}"


def _spell(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.2f} ms"
