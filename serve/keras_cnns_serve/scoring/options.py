"""The options of scoring, in Python and on the command line."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from keras_cnns_serve.options import ENGINES, PRECISIONS, Parser, UsageError, integer, number

_EPILOG = """\
IMAGES are image files, folders, globs such as "photos/**/*.jpg", lists (.csv files with a
column `file`), or URIs such as s3://bucket/photo.jpg (these need the extra `uris`).

exit status: 0 if all images were scored, 3 if some of them could not be scored, 1 after a
failure.

example:
  {program} models/digits photos --to scores/
  {program} models/digits "photos/**/*.jpg" --top-k 3 --to answers.csv
"""
_SUFFIXES = (".csv", ".jsonl")  # the suffixes of single files
_RAY = "ray"  # scores on a cluster, whose nodes choose the runtime of the graph as "auto" does
_OTHER_SUFFIXES = (".json", ".ndjson", ".txt", ".tsv", ".xlsx", ".parquet")


@dataclass(frozen=True)
class ScoringOptions:
    """The options of scoring.

    Raises:
        UsageError: `to` has the suffix of a format that is not supported, or `to` is None although
            the engine is "ray".
    """

    model: Path  # the directory of a model, or of one of its versions
    images: Sequence[str]  # files, folders, globs, lists and URIs
    to: Path | None = None  # a .csv or .jsonl file, or a directory of shards; None: print
    version: int | None = None  # None: the newest version
    top_k: int | None = None  # number of labels per image; None: only the most probable one
    min_probability: float | None = None  # 0..1; an image below this threshold is unknown
    min_accuracy: float | None = None  # 0..1; selects model.json's threshold for this accuracy
    shard_size: int = 10_000  # number of images of a shard
    # Number of images in one run of the engine; None: 4 to 16, depending on their size.
    batch_size: int | None = None
    workers: int | None = None  # number of threads; None: twice the number of cores
    engine: str = "auto"  # one of ENGINES, or "ray"
    precision: str = "auto"  # one of PRECISIONS
    max_pixels: int = 50_000_000  # maximum size of an image, width times height
    load_timeout: float = 60.0  # maximum seconds to load the version and run it once

    def __post_init__(self) -> None:
        if self.on_cluster and self.to is None:
            raise UsageError(f"--engine {_RAY} needs --to, a file or a directory of shards")
        if self.to is not None and self.to.suffix.lower() in _OTHER_SUFFIXES:
            raise UsageError(
                f"--to {self.to}: {self.to.suffix} is not supported; give a file that ends in "
                f"{' or '.join(_SUFFIXES)}, or a directory, which gets shards of JSON lines"
            )

    @property
    def on_cluster(self) -> bool:
        """Return whether the nodes of a Ray cluster score the images."""
        return self.engine == _RAY

    @property
    def graph_engine(self) -> str:
        """Return the runtime of the graph, one of ENGINES."""
        return "auto" if self.on_cluster else self.engine

    @property
    def is_single_file(self) -> bool:
        """Return whether the result is a single file, not a directory of shards."""
        return self.to is not None and self.to.suffix.lower() in _SUFFIXES


def parse(program: str, description: str, arguments: Sequence[str]) -> ScoringOptions:
    """Read the command line.

    Raises:
        UsageError: an argument is wrong.
        SystemExit: --help was given.
    """
    parser = Parser(
        prog=program,
        description=description,
        epilog=_EPILOG.format(program=program),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "model",
        metavar="MODEL",
        type=Path,
        help="the directory of an exported model (models/digits), or of one version of it",
    )
    add("images", metavar="IMAGES", nargs="+", help="the images, as described below")
    add(
        "--to",
        type=Path,
        metavar="PATH",
        help="write to a .csv or .jsonl file, or to a directory of shards of JSON lines; after an "
        "interruption, run the same command again to continue (default: print the labels)",
    )
    add(
        "--top-k",
        type=integer(1, 100_000),
        metavar="K",
        help="also write the K most probable labels of each image",
    )
    add(
        "--min-probability",
        type=number(0, 1),
        metavar="P",
        help="an image whose highest probability is below P, such as 0.9, is unknown: its row has "
        "no label",
    )
    add(
        "--min-accuracy",
        type=number(0, 1),
        metavar="A",
        help="as --min-probability, with the threshold that model.json has for the accuracy A, "
        "such as 0.98",
    )
    add(
        "--version",
        type=integer(1, 2**63 - 1),
        metavar="VERSION",
        help="the version of the model (default: the newest)",
    )
    add(
        "--engine",
        choices=(*ENGINES, _RAY),
        help="the runtime of the graph; auto: the fastest one that is accurate according to "
        "model.json; ray: as auto, on all nodes of a Ray cluster, which must see the same files "
        "(needs the extra `ray`) (default: %(default)s)",
    )
    add("--precision", choices=PRECISIONS, help="the precision of the graph (default: %(default)s)")
    add(
        "--batch-size",
        type=integer(1, 1024),
        metavar="IMAGES",
        help="number of images in one run of the engine (default: 4 to 16, fewer for larger "
        "images)",
    )
    add(
        "--workers",
        type=integer(1, 1024),
        metavar="THREADS",
        help="number of threads that read and decode; more threads help with slow disks and with "
        "URIs (default: twice the number of cores)",
    )
    add(
        "--shard-size",
        type=integer(1, 10_000_000),
        metavar="IMAGES",
        help="number of images in a shard; each finished shard is saved (default: %(default)s)",
    )
    add(
        "--max-pixels",
        type=integer(1, 178_956_970),  # Pillow itself rejects larger images
        metavar="PIXELS",
        help="maximum size of an image, width times height; a larger one is not decoded, and its "
        "row has the error (default: %(default)s)",
    )
    add("--debug", action="store_true", help="show tracebacks")
    parser.set_defaults(**{field.name: field.default for field in fields(ScoringOptions)[2:]})
    given = vars(parser.parse_args(list(arguments)))
    del given["debug"]
    return ScoringOptions(**given)
