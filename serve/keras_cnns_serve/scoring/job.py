"""Score all images that the options name, and write or print the result."""

import hashlib
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import orjson

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

from .inputs import read_names, write_names
from .options import ScoringOptions
from .output import Output, Plan
from .pipeline import Scorer, work_in_order
from .progress import Progress, spell_seconds
from .rows import Columns, Row, Totals, printable, totals_of

_BATCH_BYTES = 2**20  # of the pixels of a batch
_SOME_FAILED = 3  # the exit status if some images could not be scored


class _Batch(NamedTuple):
    shard: int
    names: list[str]


def score(options: ScoringOptions) -> int:
    """Score images, and return the exit status: 0, or `_SOME_FAILED`.

    Raises:
        ServeError: the model cannot be loaded, an argument does not exist, or the result cannot be
            written.
    """
    if options.to is None:
        return _print_scores(options)
    source = open_version(options.model, options.version)
    loaded = load(source, options)
    output = Output(options.to, options.is_single_file)
    with output.opened():
        is_continued = output.start(
            _plan(source, loaded, options), lambda file: write_names(options.images, file)
        )
        if is_continued and (summary := output.summary()):
            unknown = summary.get("unknown", 0)  # earlier versions did not count them
            counts = _counts(summary["images"], summary["failed"], unknown)
            _say(
                f"{options.to} is complete: {counts}. "
                "Delete it, or give another --to, to score again"
            )
            return _SOME_FAILED if summary["failed"] else 0
        return _score_shards(source, loaded, options, output)


def open_version(path: Path, version: int | None = None) -> ModelVersion:
    """Return a verified version of a model, by default the newest one.

    Args:
        path: the directory of a model, or of a version.
        version: the number of the version.

    Raises:
        RepositoryError: the directory has no model, or several.
        ModelNotFoundError: the model has no such version.
        VersionRefusedError: the version differs from its model.json.
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


def load(source: ModelVersion, options: ScoringOptions) -> Loaded:
    """Load the engine of a version, with one thread for each run.

    Raises:
        VersionRefusedError: there is no suitable format, or it cannot be loaded and run in time.
    """
    # One thread for each run: with all cores busy, this is faster than several threads for one.
    engine = EngineOptions(
        options.engine, options.precision, 1, usable_cores(), options.load_timeout
    )
    try:
        return load_engine(source, engine)
    except VersionRefusedError as error:
        raise VersionRefusedError(f"{source.name}/{source.version} is refused: {error}") from error


def make_scorer(source: ModelVersion, loaded: Loaded, options: ScoringOptions) -> Scorer:
    """Return the scorer of a loaded version."""
    memory = usable_memory() // BUDGET_DIVISOR
    top_k = min(options.top_k or 1, len(source.labels))
    return Scorer(
        source,
        loaded.engine,
        loaded.slots,
        memory,
        top_k,
        options.max_pixels,
        threshold=_threshold(source, options),
    )


def _threshold(source: ModelVersion, options: ScoringOptions) -> float | None:
    """Return the threshold of the probability, or None.

    Raises:
        InvalidInputError: model.json has no threshold for the accuracy.
    """
    return threshold_of(source, options.min_probability, options.min_accuracy)


def _columns(options: ScoringOptions) -> Columns:
    has_threshold = options.min_probability is not None or options.min_accuracy is not None
    return Columns(options.top_k, has_threshold)


def batch_size_of(source: ModelVersion, options: ScoringOptions) -> int:
    """Return the number of images of a run.

    Large batches save only the time around a run, which matters for small images, and cost memory
    for the activations, which matters for large ones.
    """
    image_bytes = math.prod(size or 1 for size in source.manifest.input.shape)
    return options.batch_size or min(16, max(4, _BATCH_BYTES // image_bytes))


def _workers(options: ScoringOptions) -> int:
    """Return the number of threads; those that are not in the engine read and decode."""
    return options.workers or 2 * usable_cores()


def _plan(source: ModelVersion, loaded: Loaded, options: ScoringOptions) -> Plan:
    return Plan(
        model=source.name,
        version=source.version,
        format=loaded.format.name,
        sha256=_checksum(source),
        images=[printable(each) for each in options.images],
        top_k=options.top_k,
        min_probability=_threshold(source, options),
        shard_size=options.shard_size,
        batch_size=batch_size_of(source, options),
        max_pixels=options.max_pixels,
    )


def _checksum(source: ModelVersion) -> str:
    """Return a checksum of all files of a version: its graph, weights and labels."""
    files = sorted((path, entry.sha256) for path, entry in source.manifest.files.items())
    return hashlib.sha256(orjson.dumps(files)).hexdigest()


def _print_scores(options: ScoringOptions) -> int:
    """Print the labels of each image, and the errors to stderr."""
    source = open_version(options.model, options.version)
    scorer = make_scorer(source, load(source, options), options)
    totals = Totals()
    with TemporaryDirectory() as directory:
        names = Path(directory) / "images.jsonl"
        with names.open("wb") as file:
            write_names(options.images, file)
        batches = _split(read_names(names), batch_size_of(source, options))
        with closing(work_in_order(scorer.score, batches, _workers(options))) as results:
            for rows in results:
                totals.update(totals_of(rows))
                for row in rows:
                    _print_row(row)
    return _SOME_FAILED if totals.failed else 0


def _print_row(row: Row) -> None:
    if row.error:
        _say(f"{printable(row.file)}: {row.error}")
    else:
        labels = ", ".join(f"{label} {probability:.2%}" for label, probability in row.best)
        text = f"unknown ({labels})" if row.unknown else labels
        print(f"{printable(row.file)}: {text}", flush=True)


def _score_shards(
    source: ModelVersion, loaded: Loaded, options: ScoringOptions, output: Output
) -> int:
    totals = Totals()
    finished = set()
    for shard in range(output.shards):
        if counts := output.finished(shard):
            totals.update(counts)
            finished.add(shard)
    resumed = totals.images
    if resumed:
        _say(f"continuing: {resumed:,} of {output.count:,} images are finished")
    progress = Progress(output.count, resumed, sys.stderr)
    for counts in _written(source, loaded, options, output, finished):
        totals.update(counts)
        progress.add(counts.images, counts.failed)
    summary = _summary(source, loaded, options, output, totals, progress, resumed)
    output.finish(summary, _columns(options))
    described = _counts(totals.images, totals.failed, totals.unknown)
    where = options.to if options.is_single_file else f"{options.to}{os.sep}"
    _say(
        f"{described} in {spell_seconds(progress.seconds)} "
        f"({progress.rate:,.1f} images/s) with {source.name}/{source.version}: {where}"
    )
    return _SOME_FAILED if totals.failed else 0


def _written(
    source: ModelVersion,
    loaded: Loaded,
    options: ScoringOptions,
    output: Output,
    finished: set[int],
) -> Iterator[Totals]:
    """Write the shards that are not finished, and yield the counts of each batch."""
    scorer = make_scorer(source, loaded, options)
    batch_size, columns = batch_size_of(source, options), _columns(options)

    def work(batch: _Batch) -> tuple[int, bytes, Totals]:
        rows = scorer.score(batch.names)
        return batch.shard, output.format.encode(rows, columns), totals_of(rows)

    batches = (
        _Batch(shard, names)
        for shard, of_shard in output.names(finished)
        for names in _split(of_shard, batch_size)
    )
    current, written = -1, 0
    with (
        closing(work_in_order(work, batches, _workers(options))) as results,
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


def _split(names: Iterable[str], size: int) -> Iterator[list[str]]:
    """Yield the names in batches of at most `size`."""
    remaining = iter(names)
    while batch := list(islice(remaining, size)):
        yield batch


def _summary(
    source: ModelVersion,
    loaded: Loaded,
    options: ScoringOptions,
    output: Output,
    totals: Totals,
    progress: Progress,
    resumed: int,
) -> dict[str, Any]:
    return {
        "model": source.name,
        "version": source.version,
        "file": loaded.format.path,
        "engine": loaded.format.engine,
        "precision": loaded.format.precision,
        "reason": loaded.format_reason,
        "inputs": [printable(each) for each in options.images],
        "top_k": options.top_k,
        "min_probability": _threshold(source, options),
        "images": totals.images,
        "failed": totals.failed,
        "unknown": totals.unknown,
        "labels": {label: totals.labels[label] for label in source.labels},
        "shards": output.shards,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(progress.seconds, 3),  # of the last run, as the following
        "images_per_second": round(progress.rate, 2),
        "images_of_earlier_runs": resumed,
    }


def _counts(images: int, failed: int, unknown: int = 0) -> str:
    """Return the counts for people."""
    noun = "image" if images == 1 else "images"
    others = {"unknown": unknown, "failed": failed}
    return ", ".join(
        [f"{images:,} {noun}", *(f"{count:,} {name}" for name, count in others.items() if count)]
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
