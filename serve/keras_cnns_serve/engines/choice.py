"""Choose which of a version's formats is run, by which engine, with how many threads."""

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

ENGINES = ("onnxruntime", "openvino", "tensorflow")
PRECISIONS = ("float32", "bfloat16", "int8")


@dataclass(frozen=True)
class EngineOptions:
    """The engine options of the command line."""

    engine: str = "auto"  # or one of ENGINES
    precision: str = "auto"  # or one of PRECISIONS
    threads: int = 0  # for one image; 0: measure at load and choose
    cores: int = 1  # that this process may use
    load_timeout: float = 60.0  # seconds to open a version and run it for a trial


@dataclass(frozen=True)
class Loaded:
    """An engine, and how it is best used."""

    engine: LoadedEngine
    format: Format
    choice: Choice  # of threads
    slots: int  # runs side by side
    why: str  # this format

    @property
    def threads(self) -> int:
        """Return how many threads work on one image, at most."""
        return self.choice.threads

    @property
    def reason(self) -> str:
        """Return why this format and so many threads, for people."""
        return f"{self.why}; {self.choice.reason}"

    @property
    def seconds_per_image(self) -> float:
        """Return the time of an image, of all slots together; 0 if it was not measured."""
        return self.choice.seconds


def load_engine(source: ModelVersion, options: EngineOptions) -> Loaded:
    """Load the format to run, warm.

    What takes longer than `load_timeout` is interrupted. What cannot be (OpenVINO opens a graph or
    runs a loop, or TensorFlow runs) is left behind and goes on until the process ends.

    Raises:
        VersionRefusedError: There is none, or it does not load or run, or not in time.
    """
    chosen, why = choose_format(source.manifest, options.engine, options.precision)
    try:
        return call_within(
            options.load_timeout, lambda started: _load(source, options, chosen, why, started)
        )
    except TimeoutError:
        pass
    raise VersionRefusedError(
        f"{chosen.path} was not loaded and run once within {options.load_timeout:g} s; allow more "
        "time with --load-timeout"
    )


def _load(
    source: ModelVersion, options: EngineOptions, chosen: Format, why: str, started: Interruption
) -> Loaded:
    path = source.directory / chosen.path

    def open_engine(threads: int) -> LoadedEngine:
        slots = max(1, options.cores // threads)
        return _open(path, chosen, source.manifest, threads, slots, started)

    def loaded(threads: int, slots: int, reason: str) -> Loaded:
        choice = Choice(threads, False, reason, 0.0)
        return Loaded(open_engine(threads), chosen, choice, slots, why)

    if chosen.engine == "tensorflow":
        reason = "TensorFlow itself divides an image among all cores"
        return loaded(options.cores, options.cores, reason)
    if options.threads or options.cores == 1:
        threads = options.threads or 1
        reason = "threads set by --threads" if options.threads else "there is one core"
        return loaded(threads, max(1, options.cores // threads), reason)
    # OpenVINO's engine with all threads has one stream, in which runs wait for each other.
    few = 1 if chosen.engine == "openvino" else max(1, options.cores // 2)
    sha256 = source.manifest.files[chosen.path].sha256
    key = Key(sha256, chosen.engine, chosen.precision, options.cores)
    name = f"{source.name}/{source.version}"
    engine, choice = choose_threads(open_engine, source.manifest, few, key, name)
    return Loaded(engine, chosen, choice, options.cores, why)


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
