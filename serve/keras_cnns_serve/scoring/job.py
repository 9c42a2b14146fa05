"""Score all images that the options specify, and write or print the result."""

import hashlib
import os
import sys
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import orjson

from keras_cnns_serve.engines.choice import Loaded
from keras_cnns_serve.repository.files import ModelVersion

from .cluster import write_on_cluster
from .inputs import read_names, write_names
from .options import ScoringOptions
from .output import Output, Plan
from .pipeline import work_in_order
from .progress import Progress, spell_seconds
from .rows import Row, Totals, printable, totals_of
from .shards import (
    batch_size_of,
    columns_of,
    in_batches,
    load,
    make_scorer,
    minimum_probability,
    open_version,
    workers_of,
    write_shards,
)

_SOME_FAILED = 3  # the exit status if some images could not be scored


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
            _plan(source, loaded, options), lambda file: _write_names(options, file)
        )
        if is_continued and (summary := output.summary()):
            # Summaries written by earlier versions of this program lack this count.
            unknown = summary.get("unknown", 0)
            counts = _counts(summary["images"], summary["failed"], unknown)
            _print_message(
                f"{options.to} is complete: {counts}. "
                "Delete it, or give another --to, to score again"
            )
            return _SOME_FAILED if summary["failed"] else 0
        return _score_shards(source, loaded, options, output)


def _plan(source: ModelVersion, loaded: Loaded, options: ScoringOptions) -> Plan:
    return Plan(
        model=source.name,
        version=source.version,
        format=loaded.format.name,
        sha256=_checksum(source),
        images=[printable(each) for each in options.images],
        directory=printable(str(Path.cwd())),
        top_k=options.top_k,
        min_probability=minimum_probability(source, options),
        shard_size=options.shard_size,
        batch_size=batch_size_of(source, options),
        max_pixels=options.max_pixels,
    )


def _checksum(source: ModelVersion) -> str:
    """Return a checksum of all files of a version: its graph, weights and labels."""
    files = sorted((path, entry.sha256) for path, entry in source.manifest.files.items())
    return hashlib.sha256(orjson.dumps(files)).hexdigest()


def _write_names(options: ScoringOptions, file: IO[bytes]) -> int:
    """Write the names of the images, return their number, and report links to folders."""
    links: list[str] = []
    count = write_names(options.images, file, links)
    if links:
        is_one = len(links) == 1
        number = "1 link to a folder was" if is_one else f"{len(links):,} links to folders were"
        others = "" if is_one else " and others"
        _print_message(f"{number} not followed: {printable(links[0])}{others}")
    return count


def _print_scores(options: ScoringOptions) -> int:
    """Print the labels of each image, and the errors to stderr."""
    source = open_version(options.model, options.version)
    scorer = make_scorer(source, load(source, options), options)
    totals = Totals()
    with TemporaryDirectory() as directory:
        names = Path(directory) / "images.jsonl"
        with names.open("wb") as file:
            _write_names(options, file)
        batches = in_batches(read_names(names), batch_size_of(source, options))
        with closing(work_in_order(scorer.score, batches, workers_of(options))) as results:
            for rows in results:
                totals.update(totals_of(rows))
                for row in rows:
                    _print_row(row)
    return _SOME_FAILED if totals.failed else 0


def _print_row(row: Row) -> None:
    if row.error:
        _print_message(f"{printable(row.file)}: {row.error}")
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
        _print_message(f"continuing: {resumed:,} of {output.count:,} images are finished")
    progress = Progress(output.count, resumed, sys.stderr)
    if options.on_cluster:
        remaining = [shard for shard in range(output.shards) if shard not in finished]
        written = write_on_cluster(source, options, remaining)
    else:
        written = write_shards(source, loaded, output.names(finished), options, output)
    for counts in written:
        totals.update(counts)
        progress.add(counts.images, counts.failed)
    summary = _summary(source, loaded, options, output, totals, progress, resumed)
    output.finish(summary, columns_of(options))
    described = _counts(totals.images, totals.failed, totals.unknown)
    where = options.to if options.is_single_file else f"{options.to}{os.sep}"
    _print_message(
        f"{described}; scored in {spell_seconds(progress.seconds)} ({progress.rate:,.1f} images/s) "
        f"with {source.name}/{source.version}; the result is in {where}"
    )
    return _SOME_FAILED if totals.failed else 0


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
        "min_probability": minimum_probability(source, options),
        "images": totals.images,
        "failed": totals.failed,
        "unknown": totals.unknown,
        "labels": {label: totals.labels[label] for label in source.labels},
        "shards": output.shards,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        # This key and the following ones describe only the last run of the command.
        "seconds": round(progress.seconds, 3),
        "images_per_second": round(progress.rate, 2),
        "images_of_earlier_runs": resumed,
    }


def _counts(images: int, failed: int, unknown: int = 0) -> str:
    """Return the counts as text, such as "3 images, 1 failed"."""
    noun = "image" if images == 1 else "images"
    others = {"unknown": unknown, "failed": failed}
    return ", ".join(
        [f"{images:,} {noun}", *(f"{count:,} {name}" for name, count in others.items() if count)]
    )


def _print_message(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
