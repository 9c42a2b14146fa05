"""The metrics of each epoch as a CSV file."""

from pathlib import Path
from typing import Any

import keras

from keras_cnns.files import write_text
from keras_cnns.messages import print_message
from keras_cnns.runs.tables import Row, format_rows


class SaveHistory(keras.callbacks.Callback):
    """Write a CSV file with one row per epoch: the number of the epoch, from 0, and its logs.

    Unlike `keras.callbacks.CSVLogger`, the callback writes all rows again after each epoch,
    atomically. Therefore, no epoch has two rows after training was resumed, and a row that could
    not be written because the disk was full is written together with the next row.

    Args:
        path: the path of the file.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self.rows: list[Row] = []

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Start without rows."""
        self.rows = []

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add a row, and write all of them."""
        metrics = {name: float(value) for name, value in (logs or {}).items()}
        self.rows.append({"epoch": epoch, **metrics})
        columns = dict.fromkeys(name for row in self.rows for name in row)
        try:
            write_text(self.path, format_rows(self.rows, list(columns), header=True))
        except OSError as error:
            print_message(
                f"cannot write {self.path}: {error.strerror or error}; writing is tried again "
                "after the next epoch"
            )
