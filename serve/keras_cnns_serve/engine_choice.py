"""Which of a version's formats is run, by which engine, with how many threads."""

import logging
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .engine import Engine, Outputs
from .errors import VersionRefusedError
from .manifest import Format, Manifest
from .repository import ModelVersion

logger = logging.getLogger(__name__)

ENGINES = ("onnxruntime", "openvino", "tensorflow")
PRECISIONS = ("float32", "bfloat16", "int8")
RUNS = 5  # to measure; a slow net is measured once
SECONDS = 0.05  # after which measuring ends
GAIN = 1.3  # of a lone request by several threads, or they are not chosen


@dataclass(frozen=True)
class EngineOptions:
    """What the person who runs the server asked for."""

    engine: str = "auto"  # or one of ENGINES
    precision: str = "auto"  # or one of PRECISIONS
    threads: int = 0  # for one image; 0: measure at load and choose
    cores: int = 1  # that this process may use


@dataclass(frozen=True)
class Loaded:
    """An engine, and how it is best used."""

    engine: Engine
    format: Format
    threads: int  # that work on one image, at most
    slots: int  # runs side by side
    seconds_per_image: float = 0.0  # of all slots together; 0: not measured


class Elastic:
    """All cores for the runs while they are few, one for each when they are many.

    Args:
        alone: with one thread for a run.
        shared: with all.
        few: how many runs share them.
    """

    def __init__(self, alone: Engine, shared: Engine, few: int) -> None:
        self._alone = alone
        self._shared = shared
        self._few = few
        self._running = 0
        self._lock = threading.Lock()

    def run(self, images: NDArray[np.uint8], names: Sequence[str] | None = None) -> Outputs:
        """Maps uint8 pixels [N, H, W, C] to outputs, each [N, ...]: those named, or all."""
        with self._lock:
            engine = self._shared if self._running < self._few else self._alone
            self._running += 1
        try:
            return engine.run(images, names)
        finally:
            with self._lock:
                self._running -= 1


def load_engine(source: ModelVersion, options: EngineOptions) -> Loaded:
    """Loads the format to run, warm.

    Raises:
        VersionRefusedError: there is none, or it does not load or run.
    """
    chosen = choose_format(source.manifest, options.engine, options.precision)
    path = source.directory / chosen.path

    def open_engine(threads: int) -> Engine:
        slots = max(1, options.cores // threads)
        return _open(path, chosen, source.manifest, threads, slots)

    if chosen.engine == "tensorflow":
        return Loaded(open_engine(1), chosen, options.cores, options.cores)
    if options.threads or options.cores == 1:
        threads = options.threads or 1
        return Loaded(open_engine(threads), chosen, threads, max(1, options.cores // threads))
    # OpenVINO's engine with all threads has one stream, in which runs wait for each other.
    few = 1 if chosen.engine == "openvino" else max(1, options.cores // 2)
    engine, threads, seconds = choose_threads(open_engine, source.manifest, options.cores, few)
    return Loaded(engine, chosen, threads, options.cores, seconds)


def choose_format(
    manifest: Manifest,
    engine: str = "auto",
    precision: str = "auto",
    installed: Callable[[str], bool] = lambda name: find_spec(name) is not None,
) -> Format:
    """The fastest that model.json shows proven, among those that were asked for.

    Without figures, or of formats that were not proven, float32 is taken, by ONNX Runtime if
    that may be.

    Raises:
        VersionRefusedError: no format is of this engine and precision, or its engine is not
            installed.
    """
    formats = [
        each
        for each in manifest.formats
        if engine in ("auto", each.engine) and precision in ("auto", each.precision)
    ]
    if not formats:
        kinds = ", ".join(f"{f.engine} {f.precision}" for f in manifest.formats)
        raise VersionRefusedError(
            f"it has no format for --engine {engine} --precision {precision}; it has {kinds}"
        )
    usable = [each for each in formats if installed(each.engine)]
    if not usable:
        name = formats[0].engine
        raise VersionRefusedError(
            f"{name} is not installed; pip install 'keras-cnns-serve[{name}]'"
        )
    fast = [each for each in usable if each.proven and each.milliseconds is not None]
    if fast:
        return min(fast, key=lambda each: each.milliseconds or 0.0)
    return min(usable, key=lambda f: (PRECISIONS.index(f.precision), ENGINES.index(f.engine)))


def choose_threads(
    open_engine: Callable[[int], Engine], manifest: Manifest, cores: int, few: int = 1
) -> tuple[Engine, int, float]:
    """Measures whether all threads make a lone image faster.

    A small net's operators are too short to share; a large one answers a lone request faster with
    all cores, and is then loaded twice: many side by side do best with one thread each.

    Args:
        open_engine: loads the net for so many threads.
        manifest: says what an image is.
        cores: how many there are.
        few: how many runs may share all cores.

    Returns:
        The engine, the most threads for an image, and the seconds for one of many side by side.
    """
    alone = open_engine(1)
    height, width = manifest.preprocessing.crop
    image = np.zeros((1, height, width, manifest.preprocessing.channels), np.uint8)
    with ThreadPoolExecutor(cores) as pool:
        each = list(pool.map(lambda _: _seconds(alone, image), range(cores)))
    side_by_side = statistics.median(each)
    seconds = side_by_side / cores
    if side_by_side < 1e-3:
        return alone, 1, seconds  # no thread is woken for less
    try:
        shared = open_engine(cores)
    except VersionRefusedError as error:  # twice may be more than the memory holds
        logger.warning("one thread for an image: with all, %s", error)
        return alone, 1, seconds
    if side_by_side > GAIN * _seconds(shared, image):
        return Elastic(alone, shared, few), cores, seconds
    return alone, 1, seconds


def _seconds(engine: Engine, image: NDArray[Any]) -> float:
    """The median time of a run; the first is thrown away."""
    engine.run(image)
    times: list[float] = []
    while len(times) < RUNS and sum(times) < SECONDS:
        started = time.perf_counter()
        engine.run(image)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _open(path: Path, chosen: Format, manifest: Manifest, threads: int, slots: int) -> Engine:
    match chosen.engine:
        case "openvino":
            from .openvino_engine import OpenVinoEngine

            return OpenVinoEngine(path, manifest, threads, slots, chosen.precision)
        case "tensorflow":
            from .tensorflow_engine import TensorFlowEngine

            return TensorFlowEngine(path, manifest)
    from .onnxruntime_engine import OnnxRuntimeEngine

    return OnnxRuntimeEngine(path, manifest, threads)
