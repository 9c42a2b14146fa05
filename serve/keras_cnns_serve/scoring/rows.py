"""The rows of a result: one for each image, as JSON lines or CSV."""

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson

from keras_cnns_serve.core.prediction import ScoredLabel


@dataclass(frozen=True, slots=True)
class Row:
    """The result of one image: its most probable labels, descending, or an error."""

    file: str
    best: Sequence[ScoredLabel]  # empty if there is an error
    error: str = ""
    unknown: bool = False  # whether the highest probability is below the threshold


@dataclass
class Totals:
    """Counts of rows."""

    images: int = 0
    failed: int = 0
    unknown: int = 0
    labels: Counter[str] = field(default_factory=Counter)  # images per most probable label

    def add(self, outcome: "Outcome") -> None:
        """Count a row."""
        self.images += 1
        self.unknown += outcome.unknown
        if outcome.label is not None:
            self.labels[outcome.label] += 1
        elif not outcome.unknown:
            self.failed += 1

    def update(self, other: "Totals") -> None:
        """Add the counts of other rows."""
        self.images += other.images
        self.failed += other.failed
        self.unknown += other.unknown
        self.labels.update(other.labels)


def totals_of(rows: Iterable[Row]) -> Totals:
    """Count rows."""
    totals = Totals()
    for row in rows:
        label = row.best[0].label if row.best and not row.unknown else None
        totals.add(Outcome(label, row.unknown))
    return totals


class Outcome(NamedTuple):
    """The part of a row that `Totals` counts."""

    label: str | None
    unknown: bool


class Columns(NamedTuple):
    """The optional columns of a row, besides the columns of the most probable label."""

    top_k: int | None = None  # None if only the most probable label is requested
    unknown: bool = False  # whether there is a threshold, so that an image can be unknown


class RowFormat(NamedTuple):
    """A format of rows."""

    suffix: str
    header: Callable[[Columns], bytes]  # the start of a file
    encode: Callable[[Iterable[Row], Columns], bytes]
    # Reads a shard and yields the outcome of each row.
    read_outcomes: Callable[[Path], Iterator[Outcome]]


def printable(name: str) -> str:
    """Return a file name as text; bytes that are not UTF-8 are escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _to_json(rows: Iterable[Row], columns: Columns) -> bytes:
    return b"".join(
        orjson.dumps(
            _document(row, columns), option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
        )
        for row in rows
    )


def _document(row: Row, columns: Columns) -> dict[str, Any]:
    first = row.best[0] if row.best else None
    document: dict[str, Any] = {
        "file": printable(row.file),
        "label": None if row.unknown else first and first.label,
        "probability": first and np.float32(first.probability),
    }
    if columns.unknown and first:
        document["unknown"] = row.unknown
    if columns.top_k is not None:
        document["top_k"] = [
            {"label": label, "probability": np.float32(probability)}
            for label, probability in row.best
        ]
    return document | ({"error": row.error} if row.error else {})


def _json_outcomes(part: Path) -> Iterator[Outcome]:
    with part.open("rb") as file:
        for line in file:
            document = orjson.loads(line)
            yield Outcome(document["label"], document.get("unknown", False))


def _csv_header(columns: Columns) -> bytes:
    names = ["file", "label", "probability"]
    for rank in range(2, (columns.top_k or 1) + 1):
        names += [f"label_{rank}", f"probability_{rank}"]
    if columns.unknown:
        names.append("unknown")
    return f"{','.join(names)},error\n".encode()


def _to_csv(rows: Iterable[Row], columns: Columns) -> bytes:
    text = io.StringIO()
    plain = csv.writer(text, lineterminator="\n")
    quoting = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    width = 2 * (columns.top_k or 1)
    for row in rows:
        cells: list[Any] = []
        for label, probability in row.best:
            cells += [label, np.float32(probability)]
        cells += [""] * (width - len(cells))
        if row.unknown:
            cells[0] = ""
        if columns.unknown:
            cells.append(str(row.unknown).lower() if row.best else "")
        cells = [printable(row.file), *cells, row.error]
        # Before Python 3.13, `csv` does not quote a lone carriage return when writing, but ends a
        # row there when reading.
        has_return = any("\r" in cell for cell in cells if isinstance(cell, str))
        (quoting if has_return else plain).writerow(cells)
    return text.getvalue().encode()


def _csv_outcomes(part: Path) -> Iterator[Outcome]:
    with part.open(encoding="utf-8", newline="") as file:
        for row in csv.reader(file):
            # Without a threshold, the column `unknown` is missing, and this cell is a probability.
            unknown = row[-2] == "true"
            yield Outcome(None if row[-1] or unknown else row[1], unknown)


FORMATS = {
    ".jsonl": RowFormat(".jsonl", lambda _: b"", _to_json, _json_outcomes),
    ".csv": RowFormat(".csv", _csv_header, _to_csv, _csv_outcomes),
}
