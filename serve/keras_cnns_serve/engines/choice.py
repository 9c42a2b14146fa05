"""Choose the format, engine and number of threads for a version."""

import logging
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from keras_cnns_serve.errors import VersionRefusedError
from keras_cnns_serve.repository.files import ModelVersion
from keras_cnns_serve.repository.manifest import Format, Manifest

from .base import LoadedEngine
from .golden import DisagreementError, GoldenSamples, read_golden, warm_up_and_check
from .threads import Choice, Key, choose_threads
from .trial import Interruption, call_within

logger = logging.getLogger(__name__)

T = TypeVar("T")
Disagreements = Counter[tuple[str, int, str]]  # by model, version and path of the format

_ENGINES = ("onnxruntime", "openvino", "tensorflow")
_PRECISIONS = ("float32", "bfloat16", "int8")


@dataclass(frozen=True)
class EngineOptions:
    """The engine options of the command line."""

    engine: str = "auto"  # "auto", or one of _ENGINES
    precision: str = "auto"  # "auto", or one of _PRECISIONS
    threads: int = 0  # number of threads for one image; 0: chosen by a measurement
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
    notice: str = ""  # why a preferred format was rejected; empty if none was rejected

    @property
    def threads(self) -> int:
        """Return the maximum number of threads for one image."""
        return self.choice.threads

    @property
    def reason(self) -> str:
        """Return a text that explains the choice of the format and of the number of threads."""
        return f"{self.format_reason}; {self.choice.reason}"

    @property
    def seconds_per_image(self) -> float:
        """Return the seconds per image while all slots are in use; 0 if they were not measured."""
        return self.choice.seconds


def load_engine(
    source: ModelVersion, options: EngineOptions, disagreements: Disagreements | None = None
) -> Loaded:
    """Load the format that `choose_format` returns, and warm it up.

    If the format disagrees with the version's golden samples on this machine, load the next format
    that is accurate according to model.json, and so on.

    After `load_timeout`, loading is interrupted. OpenVINO cannot be interrupted while it opens a
    graph or runs a loop operator, and TensorFlow cannot be interrupted while it runs. In these
    cases, their threads continue until they have finished or the process ends.

    Args:
        source: the version.
        options: the engine options of the command line.
        disagreements: a counter to which rejected formats are added.

    Raises:
        VersionRefusedError: there is no suitable format, the format cannot be loaded and run in
            time, or every format disagrees with the golden samples.
    """
    manifest, requested = source.manifest, (options.engine, options.precision)
    samples = read_golden(source)
    chosen, format_reason = choose_format(manifest, *requested)
    rejected: list[str] = []
    for used in (chosen, *list_alternatives(manifest, chosen, *requested)):
        notice = "; ".join(rejected)
        alternative = f"the next format that is accurate according to model.json, because {notice}"
        reason = alternative if notice else format_reason
        try:
            return load_format(source, options, used, samples, reason, notice)
        except DisagreementError as error:
            rejected.append(str(error))
            logger.warning("%s/%d: %s", source.name, source.version, error)
            if disagreements is not None:
                disagreements[source.name, source.version, used.path] += 1
        except VersionRefusedError as error:
            if not rejected:
                raise
            # If an alternative format fails too, the next one may still work.
            rejected.append(f"{used.path}: {error}")
            logger.warning("%s/%d: %s: %s", source.name, source.version, used.path, error)
    request = _spell_request(*requested)
    raise VersionRefusedError(
        f"no format{f' for {request}' if request else ''} that is accurate according to model.json "
        "reproduces the probabilities of the golden samples on this machine "
        + f"({'; '.join(rejected)}); "
        + ("allow other formats, or " if request else "")
        + "export the version again"
    )


def load_format(
    source: ModelVersion,
    options: EngineOptions,
    chosen: Format,
    samples: GoldenSamples | None,
    format_reason: str,
    notice: str,
) -> Loaded:
    """Load a format of a version, and choose the number of threads.

    Raises:
        DisagreementError: the format disagrees with the golden samples.
        VersionRefusedError: the format cannot be loaded and run within `load_timeout`.
    """
    load = partial(_load, source, options, chosen, samples, format_reason, notice)
    return _within(options.load_timeout, chosen.path, load)


def open_format(
    source: ModelVersion,
    options: EngineOptions,
    chosen: Format,
    samples: GoldenSamples | None,
    threads: int,
) -> LoadedEngine:
    """Open a format with `threads` threads per image; the errors are those of `load_format`."""
    return _within(
        options.load_timeout,
        chosen.path,
        partial(_open_and_check, source, options, chosen, samples, threads),
    )


def _within(seconds: float, path: str, load: Callable[[Interruption], T]) -> T:
    try:
        return call_within(seconds, load)
    except TimeoutError:
        pass
    raise VersionRefusedError(
        f"{path} was not loaded and run once within {seconds:g} s; allow more time with "
        "--load-timeout"
    )


def _open_and_check(
    source: ModelVersion,
    options: EngineOptions,
    chosen: Format,
    samples: GoldenSamples | None,
    threads: int,
    started: Interruption,
) -> LoadedEngine:
    slots = max(1, options.cores // threads)
    path = source.directory / chosen.path
    engine = _open(path, chosen, source.manifest, threads, slots, started)
    warm_up_and_check(engine, source.manifest, chosen, samples)
    return engine


def _load(
    source: ModelVersion,
    options: EngineOptions,
    chosen: Format,
    samples: GoldenSamples | None,
    format_reason: str,
    notice: str,
    started: Interruption,
) -> Loaded:
    def open_engine(threads: int) -> LoadedEngine:
        return _open_and_check(source, options, chosen, samples, threads, started)

    def loaded(threads: int, slots: int, reason: str) -> Loaded:
        choice = Choice(threads, False, reason, 0.0)
        return Loaded(open_engine(threads), chosen, choice, slots, format_reason, notice)

    if chosen.engine == "tensorflow":
        reason = "TensorFlow itself uses all cores for an image"
        return loaded(options.cores, options.cores, reason)
    if options.threads or options.cores == 1:
        threads = options.threads or 1
        reason = "threads set by --threads" if options.threads else "there is one core"
        return loaded(threads, max(1, options.cores // threads), reason)
    # An OpenVINO engine for all cores has one stream: concurrent runs wait for each other.
    max_shared = 1 if chosen.engine == "openvino" else max(1, options.cores // 2)
    sha256 = source.manifest.files[chosen.path].sha256
    key = Key(sha256, chosen.engine, chosen.precision, options.cores)
    name = f"{source.name}/{source.version}"
    engine, choice = choose_threads(open_engine, source.manifest, max_shared, key, name)
    return Loaded(engine, chosen, choice, options.cores, format_reason, notice)


def _is_installed(engine: str) -> bool:
    return find_spec(engine) is not None


def _spell_request(engine: str, precision: str) -> str:
    """Spell an engine and a precision as on the command line; return "" if both are `auto`."""
    requested = {"--engine": engine, "--precision": precision}
    return " ".join(f"{name} {value}" for name, value in requested.items() if value != "auto")


def _requested(manifest: Manifest, engine: str, precision: str) -> list[Format]:
    return [
        each
        for each in manifest.formats
        if engine in ("auto", each.engine) and precision in ("auto", each.precision)
    ]


def list_alternatives(
    manifest: Manifest, chosen: Format, engine: str, precision: str
) -> list[Format]:
    """Return the other requested formats that model.json shows to be accurate, fastest first."""
    others = [
        each
        for each in _requested(manifest, engine, precision)
        if each.proven and each != chosen and _is_installed(each.engine)
    ]
    return sorted(others, key=lambda each: each.milliseconds or math.inf)


def choose_format(
    manifest: Manifest,
    engine: str = "auto",
    precision: str = "auto",
    installed: Callable[[str], bool] = _is_installed,
) -> tuple[Format, str]:
    """Return the fastest requested format that model.json shows to be accurate, and the reason.

    If model.json has no measured time for any of these formats, return the most precise of the
    requested formats; if there are several, prefer the one for ONNX Runtime.

    Raises:
        VersionRefusedError: no format has this engine and precision, or the engine of such a format
            is not installed.
    """
    options = _spell_request(engine, precision)
    formats = _requested(manifest, engine, precision)
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
        return fastest, f"the fastest format{among} that is accurate according to model.json"
    precise = min(usable, key=lambda f: (_PRECISIONS.index(f.precision), _ENGINES.index(f.engine)))
    reason = (
        f"the most precise format{among}, because model.json has no measured time of a format that "
        "is accurate"
    )
    return precise, reason


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
            return openvino
        case "tensorflow":
            from .tensorflow import TensorFlowEngine

            return TensorFlowEngine(path, manifest)
    from .onnxruntime import OnnxRuntimeEngine

    engine = OnnxRuntimeEngine(path, manifest, threads)
    started.add(engine)
    return engine
