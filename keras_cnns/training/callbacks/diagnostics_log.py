"""Write diagnostics to a CSV file, one row per measurement."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from keras_cnns.messages import print_message
from keras_cnns.runs.renamed_metrics import current_name
from keras_cnns.runs.tables import format_rows
from keras_cnns.training.callbacks.diagnostic import Diagnostic


class DiagnosticsLog(keras.callbacks.Callback):
    """Write the metrics of diagnostics to a CSV file: `step`, then a column for each metric.

    A resumed training overwrites the rows of steps that it repeats. If an earlier version wrote the
    header, its names of the columns do not change; `keras_cnns.runs.tables.read_rows` returns the
    current names. Rows that cannot be written because the disk is full are written with the next
    measurement.

    Args:
        diagnostics: the diagnostics, which precede this callback in `fit`'s list. The first
            measurement determines the columns. If a diagnostic does not measure at the step of a
            row, its values in the row are empty.
        path: the path of the file.
    """

    def __init__(self, diagnostics: Sequence[Diagnostic], path: str | Path) -> None:
        super().__init__()
        self.diagnostics, self.path = diagnostics, Path(path)
        self._columns: list[str] = []
        self._size = 0  # number of bytes of the completely written rows
        self._waiting = ""  # rows that could not be written

    def get_state(self) -> dict[str, Any]:
        """Return the columns, the size of the written rows, and the unwritten rows."""
        return {"columns": self._columns, "size": self._size, "waiting": self._waiting}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue after the rows that had been written when the state was captured."""
        self._columns, self._waiting = list(state["columns"]), state["waiting"]
        self._size = state["size"]

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Write a row if something was measured in this step."""
        metrics = new_metrics(self.diagnostics)
        if not metrics:
            return
        is_first = not self._waiting
        row = {"step": str(max(each.measured_at or 0 for each in self.diagnostics))}
        row |= {name: f"{value:.6g}" for name, value in metrics.items()}
        has_header = bool(self._columns)
        self._columns = self._columns or list(row)
        values = {column: row.get(current_name(column), "") for column in self._columns}
        self._waiting += format_rows([values], self._columns, header=not has_header)
        try:
            self._size = _write_at(self.path, self._size, self._waiting)
        except OSError as error:
            if is_first:
                print_message(
                    f"cannot write {self.path}: {error.strerror}; writing is tried again after the "
                    "next measurement"
                )
        else:
            self._waiting = ""


def new_metrics(diagnostics: Sequence[Diagnostic]) -> dict[str, float]:
    """Return the metrics that were measured in the current step."""
    return {k: v for each in diagnostics if each.is_new for k, v in each.metrics.items()}


def _write_at(path: Path, size: int, text: str) -> int:
    """Replace all bytes of a file after the first `size` bytes by a text; return the new size.

    Raises:
        OSError: for example, the disk is full; the first `size` bytes have not changed.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    with os.fdopen(descriptor, "r+b") as file:
        size = min(size, file.seek(0, os.SEEK_END))
        file.truncate(size)
        file.seek(size)
        return size + file.write(text.encode())
