"""The time per step of each epoch."""

import contextlib
import statistics
import time
from pathlib import Path
from typing import Any

import keras

from keras_cnns.runs.tables import format_rows

_COLUMNS = ("epoch", "steps", "seconds", "step_ms", "slow_step_ms")


class StepTime(keras.callbacks.Callback):
    """Write the times of each epoch to a CSV file.

    The times are not in the history, so that the history is the same when a training is repeated.

    Columns: `epoch`, from 1; `steps`, the number of measured steps; `seconds`, the duration of the
    epoch with its validation; `step_ms`, the median time in milliseconds from the beginning of a
    step to the beginning of the next; `slow_step_ms`, the 95th percentile of this time. The time
    of a step includes the pipeline, the step itself and the callbacks.

    Args:
        path: the path of the file. If an interrupted epoch was repeated, it has two rows, of which
            `keras_cnns.runs.tables.read_times` returns the last one.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)

    def get_state(self) -> dict[str, Any]:
        """Return no state, because the times concern only this process."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Do nothing."""

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Record the time."""
        self._start = time.perf_counter()
        self._steps: list[tuple[int, float]] = []

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Record the time."""
        self._steps.append((batch, time.perf_counter()))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the row of the epoch."""
        pairs = list(zip(self._steps, self._steps[1:], strict=False))
        times = [(after - before) / (n - m) * 1e3 for (m, before), (n, after) in pairs]
        if len(times) < 2:
            return
        values = (
            epoch + 1,
            len(times),
            round(time.perf_counter() - self._start, 3),
            round(statistics.median(times), 3),
            round(statistics.quantiles(times, n=20)[-1], 3),
        )
        row = dict(zip(_COLUMNS, values, strict=True))
        # If the disk is full, this is reported when the checkpoint or the history cannot be
        # written.
        with contextlib.suppress(OSError):
            text = format_rows([row], _COLUMNS, header=not self.path.exists())
            with self.path.open("a", newline="", encoding="utf-8") as file:
                file.write(text)
