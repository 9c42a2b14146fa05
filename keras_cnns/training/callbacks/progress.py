"""Show how far the training is and how long it will still take."""

import shutil
import sys
import time
from typing import IO, Any

import keras

from keras_cnns.runs.logs import LOSS_SUM, by_main_output

BAR_WIDTH = 24  # characters
REFRESH = 0.1  # seconds between two drawings of the bar
PLAIN_PAUSE = 60.0  # seconds between two lines within an epoch, where there is no terminal


class Progress(keras.callbacks.Callback):
    """Print the progress and the time left: a bar on a terminal, plain lines elsewhere.

    The time left is that of the whole training, including validation. Put it first in the list of
    callbacks, and call `fit` with verbose=0.

    Args:
        stream: the file to print to; by default the standard output when the training begins.
    """

    def __init__(self, stream: IO[str] | None = None) -> None:
        super().__init__()
        self.stream = stream

        self._offset = self._last_batch = 0

    def get_state(self) -> dict[str, Any]:
        """Return the number of the epoch's steps that precede the current one."""
        return {"steps_of_epoch": self._offset + self._last_batch + 1}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue counting from there, in an epoch whose batches are counted from 0 again."""
        self._offset = state["steps_of_epoch"] - self._last_batch - 1

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Start the clock."""
        self._out = self.stream or sys.stdout
        self._bar = self._out.isatty()
        self._start = self._shown_at = time.perf_counter()
        self._done = 0  # steps in this process
        self._steps: int | None = self.params.get("steps")
        self._epochs: int = self.params["epochs"]

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Record the epoch and the time of its start."""
        self._epoch, self._last_batch, self._offset = epoch, -1, 0
        self._epoch_start = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Draw the bar again; without a terminal, print a line every minute."""
        self._done += batch - self._last_batch
        self._last_batch = batch
        now = time.perf_counter()
        if now - self._shown_at < (REFRESH if self._bar else PLAIN_PAUSE):
            return
        self._shown_at = now
        taken = self._offset + batch + 1
        step = f"step {taken}" + (f"/{self._steps}" if self._steps else "")
        parts = [
            f"{self.title()}, {step}",
            self.describe(logs or {}),
            self._time_left(now, taken),
        ]
        if self._bar:
            width = shutil.get_terminal_size().columns - 1
            line = f"{draw_bar(self._fraction(taken))} {', '.join(filter(None, parts))}"
            self._out.write(f"\r{line[:width]}\x1b[K")
        else:
            self._out.write(", ".join(filter(None, parts)) + "\n")
        self._out.flush()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Print the epoch's line."""
        now = time.perf_counter()
        if self._steps is None:
            self._steps = self._offset + self._last_batch + 1  # the data set has no length
        parts = [
            f"{self.title()}: {self.describe(logs or {})}",
            format_seconds(now - self._epoch_start),
            self._time_left(now, self._steps) if epoch + 1 < self._epochs else "",
        ]
        clear = "\r\x1b[K" if self._bar else ""
        self._out.write(clear + ", ".join(filter(None, parts)) + "\n")
        self._out.flush()
        self._shown_at = now

    def title(self) -> str:
        """Return the words that begin a line: `epoch 3/10`."""
        width = len(str(self._epochs))
        return f"epoch {self._epoch + 1:>{width}}/{self._epochs}"

    def describe(self, logs: dict[str, Any]) -> str:
        """Return the values of the logs that a line shows."""
        return describe(logs)

    def _fraction(self, batches: int) -> float:
        if not self._steps:
            return self._epoch / self._epochs
        return min(1.0, (self._epoch + batches / self._steps) / self._epochs)

    def _time_left(self, now: float, batches: int) -> str:
        if not self._steps or not self._done:
            return ""
        left = (self._epochs - self._epoch) * self._steps - batches
        return f"{format_seconds((now - self._start) / self._done * left)} left"


def describe(logs: dict[str, Any]) -> str:
    """Return losses and metrics as text, without those of single auxiliary outputs or layers.

    For a model with several outputs, `loss` and `accuracy` are those of the main output; the
    weighted sum of the losses has a name of its own.
    """
    shown = {
        name: value
        for name, value in by_main_output(logs).items()
        if name in ("loss", "val_loss") or not (name.endswith("_loss") or "/" in name)
    }
    return ", ".join(
        f"{name} {shown[name]:.2%}"
        if name.endswith("accuracy")
        else f"{name.replace(LOSS_SUM, LOSS_SUM.replace('_', ' '))} {shown[name]:.4g}"
        for name in sorted(shown, key=lambda name: LOSS_SUM in name)  # the main output's first
    )


def draw_bar(fraction: float) -> str:
    """Return a bar of `BAR_WIDTH` characters and the percentage of a fraction from 0 to 1."""
    filled = int(fraction * BAR_WIDTH)
    return f"{'━' * filled}{'╌' * (BAR_WIDTH - filled)} {fraction:4.0%}"


def format_seconds(seconds: float) -> str:
    """Return a duration in its two largest units: `4.2 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, small_unit, size, small in (
        ("d", "h", 86400, 3600),
        ("h", "min", 3600, 60),
        ("min", "s", 60, 1),
    ):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // small} {small_unit}"
    return f"{whole} s"
