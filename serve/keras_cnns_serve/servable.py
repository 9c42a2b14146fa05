"""A version that answers requests: how it is started, and what is told of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, partial

from .batching import Batcher, BatchOptions
from .engine_choice import EngineOptions, Loaded, load_engine
from .images import MAX_PIXELS, read_image, read_small_image
from .metrics import Recorder
from .repository import ModelVersion


class State(StrEnum):
    """TensorFlow Serving's states of a version."""

    START = "START"
    LOADING = "LOADING"
    AVAILABLE = "AVAILABLE"
    UNLOADING = "UNLOADING"
    END = "END"


@dataclass(frozen=True)
class VersionStatus:
    """Whether a version answers, and if not, why."""

    version: int
    state: State
    code: str = "OK"  # of google.rpc.Code
    message: str = ""


@dataclass(frozen=True)
class Servable:
    """A version that answers requests."""

    source: ModelVersion
    loaded: Loaded
    batcher: Batcher
    recorder: Recorder


@dataclass(frozen=True)
class Model:
    """The versions of a model that answer, ascending."""

    versions: Mapping[int, Servable]
    labels: Mapping[str, int]

    @cached_property
    def newest(self) -> Servable:
        """What answers a request that names no version."""
        return self.versions[max(self.versions)]


@dataclass(frozen=True)
class Options:
    """How versions are run."""

    engine: EngineOptions = EngineOptions()  # noqa: RUF009 - it is frozen
    batch: BatchOptions = BatchOptions()  # noqa: RUF009
    max_pixels: int = MAX_PIXELS  # the largest image that is decoded


def start_servable(source: ModelVersion, options: Options) -> Servable:
    """Loads a version, warm, with the threads that work for it.

    Raises:
        VersionRefusedError: it does not load or run.
    """
    loaded = load_engine(source, options.engine)
    recorder = Recorder()
    preprocessing, max_pixels = source.manifest.preprocessing, options.max_pixels
    batcher = Batcher(
        loaded.engine,
        partial(read_image, preprocessing=preprocessing, max_pixels=max_pixels),
        partial(read_small_image, preprocessing=preprocessing, max_pixels=max_pixels),
        [output.name for output in source.manifest.outputs],
        slots=loaded.slots,
        # Those without a run decode the next images beside it.
        workers=max(2, options.engine.cores, loaded.slots),
        options=options.batch,
        recorder=recorder,
        seconds_per_image=loaded.seconds_per_image,
    )
    return Servable(source, loaded, batcher, recorder)
