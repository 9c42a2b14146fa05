"""Choose which of a version's formats is run, by which engine, with how many threads."""

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

from keras_cnns_serve.errors import VersionRefusedError
from keras_cnns_serve.repository.files import ModelVersion
from keras_cnns_serve.repository.manifest import Format, Manifest

from .base import Engine, Outputs

logger = logging.getLogger(__name__)

ENGINES = ("onnxruntime", "openvino", "tensorflow")
PRECISIONS = ("float32", "bfloat16", "int8")
RUNS = 5  # to measure; a slow network is measured once
SECONDS = 0.05  # after which measuring ends
SHORT = 1e-3  # seconds; an image that takes less is not worth waking a thread for
GAIN = 1.3  # that all cores must bring to a lone request, or they are not chosen


@dataclass(frozen=True)
class EngineOptions:
    """The engine options of the command line."""

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
    reason: str  # why this format and so many threads, for people
    seconds_per_image: float = 0.0  # of all slots together; 0: not measured


class Elastic:
    """Give all cores to each run while runs are few, and one core to each when they are many.

    Args:
        alone: The engine with one thread for a run.
        shared: The engine with all cores for a run.
        few: How many runs may share all cores.
    """

    def __init__(self, alone: Engine, shared: Engine, few: int) -> None:
        self._alone = alone
        self._shared = shared
        self._few = few
        self._running = 0
        self._lock = threading.Lock()

    def run(self, images: NDArray[np.uint8], names: Sequence[str] | None = None) -> Outputs:
        """Map uint8 pixels [N, H, W, C] to outputs, each [N, ...]: those named, or all."""
        with self._lock:
            engine = self._shared if self._running < self._few else self._alone
            self._running += 1
        try:
            return engine.run(images, names)
        finally:
            with self._lock:
                self._running -= 1


def load_engine(source: ModelVersion, options: EngineOptions) -> Loaded:
    """Load the format to run, warm.

    Raises:
        VersionRefusedError: There is none, or it does not load or run.
    """
    chosen, why = choose_format(source.manifest, options.engine, options.precision)
    path = source.directory / chosen.path

    def open_engine(threads: int) -> Engine:
        slots = max(1, options.cores // threads)
        return _open(path, chosen, source.manifest, threads, slots)

    def loaded(engine: Engine, threads: int, slots: int, reason: str, seconds: float) -> Loaded:
        return Loaded(engine, chosen, threads, slots, f"{why}; {reason}", seconds)

    if chosen.engine == "tensorflow":
        reason = "TensorFlow itself divides an image among all cores"
        return loaded(open_engine(1), options.cores, options.cores, reason, 0.0)
    if options.threads or options.cores == 1:
        threads = options.threads or 1
        reason = "threads set by --threads" if options.threads else "there is one core"
        slots = max(1, options.cores // threads)
        return loaded(open_engine(threads), threads, slots, reason, 0.0)
    # OpenVINO's engine with all threads has one stream, in which runs wait for each other.
    few = 1 if chosen.engine == "openvino" else max(1, options.cores // 2)
    engine, threads, reason, seconds = choose_threads(
        open_engine, source.manifest, options.cores, few
    )
    return loaded(engine, threads, options.cores, reason, seconds)


def choose_format(
    manifest: Manifest,
    engine: str = "auto",
    precision: str = "auto",
    installed: Callable[[str], bool] = lambda name: find_spec(name) is not None,
) -> tuple[Format, str]:
    """Return the fastest requested format that model.json proves, and why it was chosen.

    If model.json has no time of a proven format, return float32, by ONNX Runtime if possible.

    Raises:
        VersionRefusedError: No format has this engine and precision, or its engine is not
            installed.
    """
    asked = {"--engine": engine, "--precision": precision}
    options = " ".join(f"{name} {value}" for name, value in asked.items() if value != "auto")
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
    if len(manifest.formats) == 1:
        return usable[0], "the only format"
    if len(formats) == 1:
        return usable[0], f"asked for by {options}"
    among = f" for {options}" if options else ""
    if len(usable) == 1:
        return usable[0], f"the only format{among} whose engine is installed"
    fast = [each for each in usable if each.proven and each.milliseconds is not None]
    if fast:
        fastest = min(fast, key=lambda each: each.milliseconds or 0.0)
        return fastest, f"the fastest format{among} that model.json proves"
    precise = min(usable, key=lambda f: (PRECISIONS.index(f.precision), ENGINES.index(f.engine)))
    return precise, f"the most precise format{among}: model.json has no time of a proven one"


def choose_threads(
    open_engine: Callable[[int], Engine], manifest: Manifest, cores: int, few: int = 1
) -> tuple[Engine, int, str, float]:
    """Measure whether all cores make a lone image faster.

    The operators of a small network are too short to share. A large one answers a lone request
    faster with all cores and is then loaded twice, because many requests side by side do best
    with one thread each.

    Args:
        open_engine: Loads the network for a number of threads.
        manifest: Says what an image is.
        cores: How many there are.
        few: How many runs may share all cores.

    Returns:
        The engine, the most threads for one image, the reason, and the seconds for one of many
        images side by side.
    """
    alone = open_engine(1)
    height, width = manifest.preprocessing.crop
    image = np.zeros((1, height, width, manifest.preprocessing.channels), np.uint8)
    with ThreadPoolExecutor(cores) as pool:
        each = list(pool.map(lambda _: _seconds(alone, image), range(cores)))
    one = statistics.median(each)
    seconds = one / cores
    if one < SHORT:
        return alone, 1, f"an image takes {_spell(one)}, too short to share", seconds
    try:
        shared = open_engine(cores)
    except VersionRefusedError as error:  # twice may be more than the memory holds
        logger.warning("one thread per image: loaded for all cores, %s", error)
        return alone, 1, "it could not be loaded a second time for all cores", seconds
    all_cores = _seconds(shared, image)
    times = f"({_spell(all_cores)} against {_spell(one)})"
    if one > GAIN * all_cores:
        reason = f"all cores make a lone image faster {times}"
        return Elastic(alone, shared, few), cores, reason, seconds
    return alone, 1, f"all cores do not make a lone image {GAIN} times as fast {times}", seconds


def _spell(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.2f} ms"


def _seconds(engine: Engine, image: NDArray[Any]) -> float:
    """Return the median time of a run; the first run is not counted."""
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
            from .openvino import OpenVinoEngine

            return OpenVinoEngine(path, manifest, threads, slots, chosen.precision)
        case "tensorflow":
            from .tensorflow import TensorFlowEngine

            return TensorFlowEngine(path, manifest)
    from .onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(path, manifest, threads)
