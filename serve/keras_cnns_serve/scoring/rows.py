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


@dataclass
class Totals:
    """Counts of rows."""

    images: int = 0
    failed: int = 0
    labels: Counter[str] = field(default_factory=Counter)  # the most probable label of each image

    def add(self, label: str | None) -> None:
        """Count a row by its label; None: it has an error."""
        self.images += 1
        if label is None:
            self.failed += 1
        else:
            self.labels[label] += 1

    def update(self, other: "Totals") -> None:
        """Add the counts of other rows."""
        self.images += other.images
        self.failed += other.failed
        self.labels.update(other.labels)


def totals_of(rows: Iterable[Row]) -> Totals:
    """Count rows."""
    totals = Totals()
    for row in rows:
        totals.add(row.best[0].label if row.best else None)
    return totals


class RowFormat(NamedTuple):
    """A format of rows. `top_k` is None if only the most probable label is requested."""

    suffix: str
    header: Callable[[int | None], bytes]  # top_k -> the start of a file
    encode: Callable[[Iterable[Row], int | None], bytes]  # rows, top_k -> text
    read_labels: Callable[[Path], Iterator[str | None]]  # part -> the labels, None for an error


def printable(name: str) -> str:
    """Return a file name as text; bytes that are not UTF-8 are escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _to_json(rows: Iterable[Row], top_k: int | None) -> bytes:
    return b"".join(
        orjson.dumps(
            _document(row, top_k), option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
        )
        for row in rows
    )


def _document(row: Row, top_k: int | None) -> dict[str, Any]:
    first = row.best[0] if row.best else None
    document: dict[str, Any] = {
        "file": printable(row.file),
        "label": first and first.label,
        "probability": first and np.float32(first.probability),
    }
    if top_k is not None:
        document["top_k"] = [
            {"label": label, "probability": np.float32(probability)}
            for label, probability in row.best
        ]
    return document | ({"error": row.error} if row.error else {})


def _json_labels(part: Path) -> Iterator[str | None]:
    with part.open("rb") as file:
        for line in file:
            yield orjson.loads(line)["label"]


def _csv_header(top_k: int | None) -> bytes:
    columns = ["file", "label", "probability"]
    for rank in range(2, (top_k or 1) + 1):
        columns += [f"label_{rank}", f"probability_{rank}"]
    return f"{','.join(columns)},error\n".encode()


def _to_csv(rows: Iterable[Row], top_k: int | None) -> bytes:
    text = io.StringIO()
    plain = csv.writer(text, lineterminator="\n")
    quoting = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    width = 2 * (top_k or 1)
    for row in rows:
        cells: list[Any] = []
        for label, probability in row.best:
            cells += [label, np.float32(probability)]
        cells += [""] * (width - len(cells))
        cells = [printable(row.file), *cells, row.error]
        # Before Python 3.13 the module does not quote a lone carriage return, but ends a row there.
        has_return = any("\r" in cell for cell in cells if isinstance(cell, str))
        (quoting if has_return else plain).writerow(cells)
    return text.getvalue().encode()


def _csv_labels(part: Path) -> Iterator[str | None]:
    with part.open(encoding="utf-8", newline="") as file:
        for row in csv.reader(file):
            yield None if row[-1] else row[1]


FORMATS = {
    ".jsonl": RowFormat(".jsonl", lambda _: b"", _to_json, _json_labels),
    ".csv": RowFormat(".csv", _csv_header, _to_csv, _csv_labels),
}
