"""Every epoch's figures as a CSV file."""

import csv
import io
from pathlib import Path
from typing import Any

import keras

from keras_cnns.files import write_text
from keras_cnns.messages import say


class SaveHistory(keras.callbacks.Callback):
    """Write one row an epoch: its number, from 0, and its logs; the file is always whole.

    Unlike `keras.callbacks.CSVLogger` it knows its rows: training that goes on from an earlier
    checkpoint has no row twice, and a row that a full disk refused comes with the next.

    Args:
        path: of the file.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self.rows: list[dict[str, float]] = []

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Begin without rows."""
        self.rows = []

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add a row, and write all of them."""
        figures = {name: float(value) for name, value in (logs or {}).items()}
        self.rows.append({"epoch": epoch, **figures})
        columns = dict.fromkeys(name for row in self.rows for name in row)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        try:
            write_text(self.path, text.getvalue())
        except OSError as error:
            say(f"cannot write {self.path}: {error.strerror or error}; the next epoch tries again")
