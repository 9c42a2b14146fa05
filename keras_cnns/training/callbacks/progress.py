"""Show the progress of a training, and the time left."""

import sys
import time
from typing import IO, Any

from keras_cnns.durations import format_seconds
from keras_cnns.runs.logs import LOSS_SUM, by_main_output
from keras_cnns.training.callbacks.step_counter import StepCounter

REFRESH = 0.5  # seconds between two drawings of the bar; a drawing takes about a millisecond
PLAIN_PAUSE = 60.0  # seconds between two lines within an epoch, if there is no terminal
# Widths of the bar, in characters. If a bar of the minimum width has no room, details are omitted,
# but not the title.
_MIN_BAR, _MAX_BAR = 10, 24


class Progress(StepCounter):
    """Print the progress and the time left: a bar on a terminal, plain lines elsewhere.

    The time left refers to the whole training, including validation. Place this callback first in
    `fit`'s list, and call `fit` with verbose=0.

    Args:
        stream: the file to print to; by default the standard output when the training begins.
        prefix: words that precede the number of the epoch, such as `fold 2/5, `.
        trainings_after: the number of equally long trainings that follow; the time left includes
            them.

    Attributes:
        step: number of steps taken in the current epoch, including steps in earlier processes.
    """

    def __init__(
        self, stream: IO[str] | None = None, *, prefix: str = "", trainings_after: int = 0
    ) -> None:
        super().__init__()
        self.stream, self.prefix, self.trainings_after = stream, prefix, trainings_after
        self._bar: _Bar | None = None

    def get_state(self) -> dict[str, Any]:
        """Return the number of steps that the current epoch has taken so far."""
        return {"steps_of_epoch": self.step}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue counting; Keras counts the batches of a resumed epoch from 0 again."""
        self.step = state["steps_of_epoch"]

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Start the clock."""
        self.close()
        self._out = self.stream or sys.stdout
        self._bar = _Bar(self._out) if self._out.isatty() else None
        self._start = self._shown_at = time.perf_counter()
        self._done = 0  # number of steps taken in this process
        self._steps: int | None = self.params.get("steps")
        self._epochs: int = self.params["epochs"]

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Record the epoch and the time of its start."""
        self._epoch, self.step = epoch, 0
        self._epoch_start = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Draw the bar again; without a terminal, print a line every minute."""
        before = self.step
        super().on_train_batch_end(batch, logs)
        self._done += self.step - before
        now = time.perf_counter()
        if now - self._shown_at < (REFRESH if self._bar else PLAIN_PAUSE):
            return
        self._shown_at = now
        left, metrics = self._time_left(now, self.step), self.describe(logs or {})
        step = f"step {self.step}" + (f"/{self._steps}" if self._steps else "")
        if self._bar:
            fraction = (self._epoch + self.step / (self._steps or sys.maxsize)) / self._epochs
            self._bar.draw(min(1.0, fraction), self.title(), left, f"{metrics}, {step}")
        else:
            self._print(_join(self.title(), step, left), metrics)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Print the epoch's line."""
        now = time.perf_counter()
        if self._steps is None:
            self._steps = self.step  # known only now if the data set has no length
        is_last = epoch + 1 == self._epochs and not self.trainings_after
        left = "" if is_last else self._time_left(now, self._steps)
        seconds = format_seconds(now - self._epoch_start)
        self._print(_join(self.title(), left), _join(self.describe(logs or {}), seconds))
        self._shown_at = now

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Remove the bar."""
        self.close()

    def close(self) -> None:
        """Remove the bar.

        Call this if `fit` fails, because `fit` then does not call `on_train_end`.
        """
        bar, self._bar = self._bar, None
        if bar:
            bar.close()

    def title(self) -> str:
        """Return the beginning of a line, such as `epoch 3/10`."""
        width = len(str(self._epochs))
        return f"{self.prefix}epoch {self._epoch + 1:>{width}}/{self._epochs}"

    def describe(self, logs: dict[str, Any]) -> str:
        """Return the values of the logs that a line shows, separated by commas."""
        return describe(logs)

    def _print(self, head: str, metrics: str) -> None:
        line = f"{head}: {metrics}"
        if self._bar:
            self._bar.print(line)
        else:
            print(line, file=self._out, flush=True)

    def _time_left(self, now: float, steps: int) -> str:
        """Return the time left after a number of steps of the epoch, as text; "" if unknown."""
        if not self._steps or not self._done:
            return ""
        epochs = self._epochs * (1 + self.trainings_after)
        left = (epochs - self._epoch) * self._steps - steps
        return f"{format_seconds((now - self._start) / self._done * left)} left"


class _Bar:
    """A progress bar in a line of a terminal: title, bar, percentage, time left, and details."""

    def __init__(self, stream: IO[str]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._console = Console(file=stream)
        self._bar = BarColumn()
        texts = ("{task.description}", "{task.percentage:>3.0f}%", "{task.fields[rest]}")
        title, percentage, rest = (TextColumn(text, markup=False) for text in texts)
        # The bar uses no thread, does not hide the cursor and does not replace sys.stdout.
        # Otherwise, a failure of `fit` would leave a running thread, a hidden cursor and a replaced
        # sys.stdout.
        self._progress = Progress(
            *(title, self._bar, percentage, rest),
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("", total=1.0, rest="", visible=False)
        self._progress.start()
        self._console.show_cursor()

    def draw(self, fraction: float, title: str, left: str, details: str) -> None:
        """Draw the bar; if necessary, leave out the last of the comma-separated details."""
        room = self._console.width - len(f"{title}  100% {left}")
        shown = details.split(", ")
        while shown and len(", ".join(shown)) + 2 > room - _MIN_BAR:
            shown.pop()
        rest = _join(left, *shown)
        self._bar.bar_width = max(1, min(room - len(rest) + len(left), _MAX_BAR))
        self._progress.update(
            self._task, completed=fraction, description=title, rest=rest, visible=True, refresh=True
        )

    def print(self, line: str) -> None:
        """Print a line above the bar."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Remove the bar from the terminal."""
        self._progress.stop()


def describe(logs: dict[str, Any]) -> str:
    """Return losses and metrics as text, except metrics of auxiliary outputs and of layers.

    For a model with several outputs, `loss` and `accuracy` belong to the main output; the weighted
    sum of the losses has another name.
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
        # This key sorts the weighted sum to the end.
        for name in sorted(shown, key=lambda name: LOSS_SUM in name)
    )


def _join(*parts: str) -> str:
    return ", ".join(filter(None, parts))
