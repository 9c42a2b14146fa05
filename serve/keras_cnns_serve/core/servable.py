"""A loaded version with its engine, batcher and metrics."""

import logging
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath

from keras_cnns_serve.engines.choice import Disagreements, EngineOptions, Loaded, load_engine
from keras_cnns_serve.engines.faster import NotCalmError, find_fastest
from keras_cnns_serve.errors import VersionRefusedError
from keras_cnns_serve.images.decoding import MAX_PIXELS, EncodedImage, read_small_image
from keras_cnns_serve.repository.files import ModelVersion

from .batching import Batcher, BatchOptions
from .limits import Budget
from .metrics import Recorder

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Servable:
    """A loaded version with its engine, batcher and metrics."""

    source: ModelVersion
    loaded: Loaded
    batcher: Batcher
    recorder: Recorder
    engine_options: EngineOptions
    # Whether the formats were measured on this machine; also True if they cannot be measured.
    formats_measured: bool = False

    @property
    def description(self) -> str:
        """Return a line for the log: file, engine, precision, threads, and why they were chosen."""
        info = self.engine_info()
        threads = f"{info['threads']} thread{'s' if self.loaded.threads > 1 else ''} per image"
        return (
            f"{info['file']} by {info['engine']}, {info['precision']}, {threads} ({info['reason']})"
        )

    @property
    def notice(self) -> str:
        """Return why a preferred format was rejected; empty if none was rejected."""
        return self.loaded.notice

    def engine_info(self) -> dict[str, str | int]:
        """Return the items of `description` by name, for logs and protocols."""
        loaded = self.loaded
        return {
            "file": PurePosixPath(loaded.format.path).name,
            "engine": loaded.format.engine,
            "precision": loaded.format.precision,
            "threads": loaded.threads,  # maximum for one image
            "side_by_side": loaded.slots,  # maximum number of concurrent runs
            "reason": loaded.reason,
        }

    def measure_formats(self) -> None:
        """Measure the speed of the formats on this machine, and switch to the fastest one.

        Requests are answered meanwhile, and runs in progress finish on the previous engine. If
        other work prevents a measurement, `formats_measured` remains False.
        """
        name = f"{self.source.name}/{self.source.version}"
        try:
            loaded = find_fastest(self.source, self.engine_options, self.loaded)
        except NotCalmError:
            return
        except VersionRefusedError as error:
            logger.warning("%s: a faster format cannot be loaded: %s", name, error)
        else:
            changed = loaded.format is not self.loaded.format
            self.loaded = loaded
            self.batcher.engine = loaded.engine
            if changed:
                logger.info("%s now uses %s", name, self.description)
        self.formats_measured = True

    def close(self) -> None:
        """Finish the requests in flight and end the threads."""
        self.batcher.close()


@dataclass(frozen=True)
class Options:
    """Options of engines, batching and limits."""

    engine: EngineOptions = EngineOptions()  # noqa: RUF009 - frozen
    batch: BatchOptions = BatchOptions()  # noqa: RUF009
    max_pixels: int = MAX_PIXELS  # maximum number of pixels of an image
    budget: Budget = field(default_factory=lambda: Budget(2**30))  # for the memory of all clients
    admin: bool = False  # whether clients may load, unload and configure models
    # Counts the formats that have disagreed with the golden samples since the start.
    disagreements: Disagreements = field(default_factory=Counter)


def start_servable(source: ModelVersion, options: Options) -> Servable:
    """Load a version, warm it up and start its threads.

    Raises:
        VersionRefusedError: the version cannot be loaded or run.
    """
    loaded = load_engine(source, options.engine, options.disagreements)
    recorder = Recorder()
    preprocessing, max_pixels = source.manifest.preprocessing, options.max_pixels
    batcher = Batcher(
        loaded.engine,
        partial(EncodedImage, preprocessing=preprocessing, max_pixels=max_pixels),
        partial(read_small_image, preprocessing=preprocessing, max_pixels=max_pixels),
        [output.name for output in source.manifest.outputs],
        slots=loaded.slots,
        # Workers that have no slot decode the next images.
        workers=max(2, options.engine.cores, loaded.slots),
        options=options.batch,
        recorder=recorder,
        budget=options.budget,
        seconds_per_image=loaded.seconds_per_image,
    )
    return Servable(source, loaded, batcher, recorder, options.engine)
