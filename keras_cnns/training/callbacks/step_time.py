"""How long a step takes, epoch by epoch."""

import csv
import statistics
import time
from pathlib import Path
from typing import Any

import keras

from keras_cnns.training.callbacks.diagnostics_log import read_rows

COLUMNS = ("epoch", "steps", "seconds", "step_ms", "slow_step_ms")


class StepTime(keras.callbacks.Callback):
    """Write times to a CSV file, apart from the history, which is the same each time.

    Columns: `epoch` from 1; `steps` of it that were measured; `seconds` of the epoch, validation
    and all; `step_ms`, the median from one step's begin to the next's, in milliseconds: what the
    pipeline, the step and the callbacks take together; `slow_step_ms`, the 95th percentile.

    Args:
        path: of the file; an earlier row of the same epoch, of training that was cut off, stays
            out of what `read_times` returns.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)

    def get_state(self) -> dict[str, Any]:
        """Return nothing: a clock goes on."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Keep the clock of this process."""

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start the clock."""
        self._start = time.perf_counter()
        self._steps: list[tuple[int, float]] = []

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Note the time."""
        self._steps.append((batch, time.perf_counter()))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the epoch's row."""
        pairs = list(zip(self._steps, self._steps[1:], strict=False))
        times = [(after - before) / (n - m) * 1e3 for (m, before), (n, after) in pairs]
        if len(times) < 2:
            return
        row = (
            epoch + 1,
            len(times),
            round(time.perf_counter() - self._start, 3),
            round(statistics.median(times), 3),
            round(statistics.quantiles(times, n=20)[-1], 3),
        )
        try:
            is_new = not self.path.exists()
            with self.path.open("a", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerows([COLUMNS, row] if is_new else [row])
        except OSError:  # a full disk: times are not worth a word, the checkpoint says it
            return


def read_times(path: str | Path) -> list[dict[str, float]]:
    """Return a file's rows in the order of epochs, of each epoch the last; none if absent."""
    rows = read_rows(Path(path))
    latest = {int(row["epoch"]): {k: float(v) for k, v in row.items()} for row in rows}
    return [latest[epoch] for epoch in sorted(latest)]
