"""Choose the format, engine and number of threads for a version."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from keras_cnns_serve.errors import VersionRefusedError
from keras_cnns_serve.repository.files import ModelVersion
from keras_cnns_serve.repository.manifest import Format, Manifest

from .base import LoadedEngine, warm_up
from .threads import Choice, Key, choose_threads
from .trial import Interruption, call_within

_ENGINES = ("onnxruntime", "openvino", "tensorflow")
_PRECISIONS = ("float32", "bfloat16", "int8")


@dataclass(frozen=True)
class EngineOptions:
    """The engine options of the command line."""

    engine: str = "auto"  # or one of _ENGINES
    precision: str = "auto"  # or one of _PRECISIONS
    threads: int = 0  # for one image; 0: chosen by a measurement
    cores: int = 1  # number of cores that this process may use
    load_timeout: float = 60.0  # maximum seconds to open a version and run it once


@dataclass(frozen=True)
class Loaded:
    """A loaded engine, and how to use it."""

    engine: LoadedEngine
    format: Format
    choice: Choice  # the number of threads
    slots: int  # maximum number of concurrent runs
    format_reason: str  # why this format was chosen

    @property
    def threads(self) -> int:
        """Return the maximum number of threads for one image."""
        return self.choice.threads

    @property
    def reason(self) -> str:
        """Return the reason of the format and of the number of threads, for people."""
        return f"{self.format_reason}; {self.choice.reason}"

    @property
    def seconds_per_image(self) -> float:
        """Return the time of an image with all slots busy; 0 if it was not measured."""
        return self.choice.seconds


def load_engine(source: ModelVersion, options: EngineOptions) -> Loaded:
    """Load the chosen format and warm it up.

    After `load_timeout`, loading is interrupted. Work that cannot be interrupted (OpenVINO opens a
    graph or runs a loop, TensorFlow runs) continues in its thread until the process ends.

    Raises:
        VersionRefusedError: there is no suitable format, or it cannot be loaded and run in time.
    """
    chosen, format_reason = choose_format(source.manifest, options.engine, options.precision)
    try:
        return call_within(
            options.load_timeout,
            lambda started: _load(source, options, chosen, format_reason, started),
        )
    except TimeoutError:
        pass
    raise VersionRefusedError(
        f"{chosen.path} was not loaded and run once within {options.load_timeout:g} s; allow more "
        "time with --load-timeout"
    )


def _load(
    source: ModelVersion,
    options: EngineOptions,
    chosen: Format,
    format_reason: str,
    started: Interruption,
) -> Loaded:
    path = source.directory / chosen.path

    def open_engine(threads: int) -> LoadedEngine:
        slots = max(1, options.cores // threads)
        return _open(path, chosen, source.manifest, threads, slots, started)

    def loaded(threads: int, slots: int, reason: str) -> Loaded:
        choice = Choice(threads, False, reason, 0.0)
        return Loaded(open_engine(threads), chosen, choice, slots, format_reason)

    if chosen.engine == "tensorflow":
        reason = "TensorFlow itself uses all cores for an image"
        return loaded(options.cores, options.cores, reason)
    if options.threads or options.cores == 1:
        threads = options.threads or 1
        reason = "threads set by --threads" if options.threads else "there is one core"
        return loaded(threads, max(1, options.cores // threads), reason)
    # With all threads, OpenVINO has one stream, in which concurrent runs wait for each other.
    max_shared = 1 if chosen.engine == "openvino" else max(1, options.cores // 2)
    sha256 = source.manifest.files[chosen.path].sha256
    key = Key(sha256, chosen.engine, chosen.precision, options.cores)
    name = f"{source.name}/{source.version}"
    engine, choice = choose_threads(open_engine, source.manifest, max_shared, key, name)
    return Loaded(engine, chosen, choice, options.cores, format_reason)


def choose_format(
    manifest: Manifest,
    engine: str = "auto",
    precision: str = "auto",
    installed: Callable[[str], bool] = lambda name: find_spec(name) is not None,
) -> tuple[Format, str]:
    """Return the fastest requested format that model.json proves accurate, and the reason.

    If model.json has no time of a proven format, return float32, if possible for ONNX Runtime.

    Raises:
        VersionRefusedError: no format has this engine and precision, or its engine is not
            installed.
    """
    requested = {"--engine": engine, "--precision": precision}
    options = " ".join(f"{name} {value}" for name, value in requested.items() if value != "auto")
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
        return usable[0], f"requested by {options}"
    among = f" for {options}" if options else ""
    if len(usable) == 1:
        return usable[0], f"the only format{among} whose engine is installed"
    fast = [each for each in usable if each.proven and each.milliseconds is not None]
    if fast:
        fastest = min(fast, key=lambda each: each.milliseconds or 0.0)
        return fastest, f"the fastest format{among} that model.json proves"
    precise = min(usable, key=lambda f: (_PRECISIONS.index(f.precision), _ENGINES.index(f.engine)))
    return precise, f"the most precise format{among}: model.json has no time of a proven one"


def _open(
    path: Path,
    chosen: Format,
    manifest: Manifest,
    threads: int,
    slots: int,
    started: Interruption,
) -> LoadedEngine:
    match chosen.engine:
        case "openvino":
            from .openvino import OpenVinoEngine

            openvino = OpenVinoEngine(path, manifest, threads, slots, chosen.precision)
            started.add(openvino)
            warm_up(openvino, manifest, path.name)
            return openvino
        case "tensorflow":
            from .tensorflow import TensorFlowEngine

            tensorflow = TensorFlowEngine(path, manifest)
            warm_up(tensorflow, manifest, path.name)
            return tensorflow
    from .onnxruntime import OnnxRuntimeEngine

    engine = OnnxRuntimeEngine(path, manifest, threads)
    started.add(engine)
    warm_up(engine, manifest, path.name)
    return engine
