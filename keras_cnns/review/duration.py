"""Estimate how long it takes to train folds, from the times of a finished run."""

import statistics
from dataclasses import dataclass

from keras_cnns.durations import format_seconds
from keras_cnns.runs.names import TIMES
from keras_cnns.runs.run import Run
from keras_cnns.runs.tables import read_times


@dataclass(frozen=True)
class Duration:
    """The estimated time to train the folds that are not finished."""

    folds: int  # number of folds that are not finished
    epochs: float
    steps_per_epoch: int
    step_seconds: float  # median time of a step in the finished run
    seconds: float  # time of all folds, including the evaluation at the end of each epoch

    def describe(self) -> str:
        """Return a text with the duration in minutes and the numbers on which it is based."""
        return (
            f"training {self.folds} {'fold' if self.folds == 1 else 'folds'} takes about "
            f"{format_seconds(self.seconds)}: {self.epochs:g} epochs of {self.steps_per_epoch:,} "
            f"steps each, and a step of the run took {self.step_seconds * 1e3:.0f} ms"
        )


def estimate_duration(run: Run, images: int, folds: int, remaining: int) -> Duration | None:
    """Estimate the time to train folds; return None if the run has no measured steps.

    Args:
        run: a finished run of the same recipe.
        images: the number of images that are divided into folds.
        folds: the number of folds.
        remaining: the number of folds that are not finished.
    """
    times = read_times(run.path / TIMES)
    if not times:
        return None
    training = run.recipe.training
    step = statistics.median(row["step_ms"] for row in times) / 1e3
    # The time at the end of an epoch, for the evaluation, the diagnostics and the files.
    rest = max(0.0, statistics.median(row["seconds"] - row["steps"] * step for row in times))
    steps = -(-(images - images // folds) // training.batch_size)
    # Early stopping ends the folds after about as many epochs as the run.
    last = run.results().get("last_epoch", training.epochs)
    epochs = training.max_steps / steps if training.max_steps else last
    return Duration(remaining, epochs, steps, step, remaining * epochs * (steps * step + rest))
