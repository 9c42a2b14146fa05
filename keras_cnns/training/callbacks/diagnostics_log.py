"""Diagnostics into a file: one row a measurement."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_cnns.files import ENCODING
from keras_cnns.messages import say
from keras_cnns.training.callbacks.diagnostic import Diagnostic


class DiagnosticsLog(keras.callbacks.Callback):
    """Write what diagnostics measure to a CSV file: `step`, then a column for each figure.

    Put it behind the diagnostics in the list of callbacks. It knows how much of the file is its
    own: training that goes on from a checkpoint writes over the rows of steps that it takes again.
    Rows that do not go onto a full disk come with the next measurement.

    Args:
        diagnostics: whose figures to write; one that measures at other steps than the first of
            them has empty columns.
        path: of the file.
    """

    def __init__(self, diagnostics: Sequence[Diagnostic], path: str | Path) -> None:
        super().__init__()
        self.diagnostics, self.path = diagnostics, Path(path)
        self._columns: list[str] = []
        self._size = 0  # bytes of the file that are whole rows
        self._waiting = ""  # rows that could not be written

    def get_state(self) -> dict[str, Any]:
        """Return the columns, how much of the file is written, and what is not."""
        return {"columns": self._columns, "size": self._size, "waiting": self._waiting}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on behind the rows that were written then."""
        self._columns, self._waiting = list(state["columns"]), state["waiting"]
        self._size = state["size"]

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Write a row, where something was measured in this step."""
        figures = new_figures(self.diagnostics)
        if not figures:
            return
        is_first = not self._waiting
        row = {"step": str(max(each.measured_at or 0 for each in self.diagnostics))}
        row |= {name: f"{value:.6g}" for name, value in figures.items()}
        if not self._columns:
            self._columns = list(row)
            self._waiting = format_row(dict(zip(row, row, strict=True)), self._columns)
        self._waiting += format_row(row, self._columns)
        try:
            self._size = write_at(self.path, self._size, self._waiting)
        except OSError as error:
            if is_first:
                say(f"cannot write {self.path}: {error.strerror}; its rows come later")
        else:
            self._waiting = ""


def new_figures(diagnostics: Sequence[Diagnostic]) -> dict[str, float]:
    """Return what was measured in the step that ends now."""
    return {k: v for each in diagnostics if each.is_new for k, v in each.figures.items()}


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return a file's rows; without those that a crash cut short, or a missing file's."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding=ENCODING) as file:
        return [row for row in csv.DictReader(file) if None not in row.values() and None not in row]


def format_row(row: Mapping[str, str], columns: Sequence[str]) -> str:
    """Return a row as a line of CSV."""
    text = io.StringIO()
    csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n").writerow(row)
    return text.getvalue()


def write_at(path: Path, size: int, text: str) -> int:
    """Write text behind the first `size` bytes of a file, its end then; return the new size.

    Raises:
        OSError: the disk is full, say; the first bytes are as they were.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    with os.fdopen(descriptor, "r+b") as file:
        size = min(size, file.seek(0, os.SEEK_END))
        file.truncate(size)
        file.seek(size)
        return size + file.write(text.encode())
