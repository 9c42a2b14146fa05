"""Score images in shards with one version of a model."""

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from keras_cnns_serve.core.limits import BUDGET_DIVISOR, usable_cores, usable_memory
from keras_cnns_serve.core.thresholds import threshold_of
from keras_cnns_serve.engines.choice import EngineOptions, Loaded, load_engine
from keras_cnns_serve.errors import ModelNotFoundError, RepositoryError, VersionRefusedError
from keras_cnns_serve.repository.files import (
    ModelVersion,
    find_models,
    find_versions,
    read_version,
)

from .options import ScoringOptions
from .output import Output
from .pipeline import Scorer, work_in_order
from .rows import Columns, Totals, totals_of

_BATCH_BYTES = 2**20  # approximate size of the pixels of a batch


class _Batch(NamedTuple):
    shard: int
    names: list[str]


def open_version(path: Path, version: int | None = None) -> ModelVersion:
    """Return a verified version of a model, by default the newest one.

    Args:
        path: the directory of a model, or of a version.
        version: the number of the version.

    Raises:
        RepositoryError: the directory has no model, or several.
        ModelNotFoundError: the model has no such version.
        VersionRefusedError: the version's files differ from its model.json.
    """
    if (path / "model.json").is_file() and path.resolve().name.isdecimal():
        version, path = version or int(path.resolve().name), path.resolve().parent
    models = find_models(path)
    if len(models) != 1:
        example = path / min(models, default="digits")
        raise RepositoryError(
            f"{path} has {len(models)} models; give the directory of one, such as {example}"
        )
    ((name, directory),) = models.items()
    found = find_versions(name, directory)
    if not found.versions:
        raise RepositoryError(f"{path} has no version of a model: {found.problem}")
    number = max(found.versions) if version is None else version
    if number not in found.versions:
        raise ModelNotFoundError(
            f"{name} has no version {number}; it has {', '.join(map(str, found.versions))}"
        )
    try:
        return read_version(name, number, found.versions[number])
    except VersionRefusedError as error:
        raise VersionRefusedError(f"{name}/{number} is refused: {error}") from error


def load(source: ModelVersion, options: ScoringOptions, cores: int | None = None) -> Loaded:
    """Load the engine of a version; each run of the engine uses one thread.

    Args:
        source: the version.
        options: the engine and the precision.
        cores: the number of concurrent runs; by default the number of usable cores.

    Raises:
        VersionRefusedError: there is no suitable format, or it cannot be loaded and run in time.
    """
    # Each run uses one thread: while all cores are busy, this is faster than several threads per
    # run.
    engine = EngineOptions(
        options.graph_engine, options.precision, 1, cores or usable_cores(), options.load_timeout
    )
    try:
        return load_engine(source, engine)
    except VersionRefusedError as error:
        raise VersionRefusedError(f"{source.name}/{source.version} is refused: {error}") from error


def make_scorer(
    source: ModelVersion, loaded: Loaded, options: ScoringOptions, cores: int | None = None
) -> Scorer:
    """Return the scorer of a loaded version.

    Args:
        source: the version.
        loaded: its engine.
        options: the options of the run.
        cores: the number of cores to use; by default all usable cores. The large images that are
            decoded at the same time may take this fraction of the memory budget.
    """
    memory = usable_memory() // BUDGET_DIVISOR
    if cores:
        memory = memory * min(cores, usable_cores()) // usable_cores()
    top_k = min(options.top_k or 1, len(source.labels))
    return Scorer(
        source,
        loaded.engine,
        loaded.slots,
        memory,
        top_k,
        options.max_pixels,
        threshold=minimum_probability(source, options),
    )


def write_shards(
    source: ModelVersion,
    loaded: Loaded,
    shards: Iterable[tuple[int, Iterable[str]]],
    options: ScoringOptions,
    output: Output,
    cores: int | None = None,
) -> Iterator[Totals]:
    """Score and write shards, and yield the counts of each batch.

    Args:
        source: the version of the model.
        loaded: its engine.
        shards: pairs of the index of a shard and the names of its images.
        options: the options of the run.
        output: the output to which the shards are written.
        cores: the number of cores to use; by default all usable cores.
    """
    scorer = make_scorer(source, loaded, options, cores)
    batch_size, columns = batch_size_of(source, options), columns_of(options)

    def work(batch: _Batch) -> tuple[int, bytes, Totals]:
        rows = scorer.score(batch.names)
        return batch.shard, output.format.encode(rows, columns), totals_of(rows)

    batches = (
        _Batch(shard, names)
        for shard, of_shard in shards
        for names in in_batches(of_shard, batch_size)
    )
    current, written = -1, 0
    with (
        closing(work_in_order(work, batches, workers_of(options, cores))) as results,
        ExitStack() as stack,
    ):
        for shard, text, counts in results:
            if shard != current:
                file = stack.enter_context(output.writing(shard))
                current, written = shard, 0
            file.write(text)
            written += counts.images
            if written == output.size(shard):
                stack.close()
            yield counts


def batch_size_of(source: ModelVersion, options: ScoringOptions) -> int:
    """Return the number of images in one run of the engine.

    A large batch spreads the overhead of a run over more images, which matters for small images. It
    also needs more memory for activations, which matters for large images.
    """
    image_bytes = math.prod(size or 1 for size in source.manifest.input.shape)
    return options.batch_size or min(16, max(4, _BATCH_BYTES // image_bytes))


def workers_of(options: ScoringOptions, cores: int | None = None) -> int:
    """Return the number of threads; each of them reads and decodes images and runs the engine."""
    return options.workers or 2 * (cores or usable_cores())


def minimum_probability(source: ModelVersion, options: ScoringOptions) -> float | None:
    """Return the probability below which an image is unknown, or None if there is no threshold.

    Raises:
        InvalidInputError: model.json has no threshold for the accuracy.
    """
    return threshold_of(source, options.min_probability, options.min_accuracy)


def columns_of(options: ScoringOptions) -> Columns:
    """Return the optional columns of the rows."""
    has_threshold = options.min_probability is not None or options.min_accuracy is not None
    return Columns(options.top_k, has_threshold)


def in_batches(names: Iterable[str], size: int) -> Iterator[list[str]]:
    """Yield the names in batches of at most `size`."""
    remaining = iter(names)
    while batch := list(islice(remaining, size)):
        yield batch
