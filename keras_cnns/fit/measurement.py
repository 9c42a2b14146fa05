"""Measure a recipe: the time of its steps and of its evaluation, and its learning rate."""

import statistics
import time
from dataclasses import dataclass
from typing import Any

import keras

from keras_cnns.data import Splits
from keras_cnns.keras_internals import clear_session
from keras_cnns.recipes import Recipe
from keras_cnns.training.callbacks.lr_finder import LRFinder
from keras_cnns.training.model import for_outputs
from keras_cnns.training.preparation import prepare

_WARM_UP = 3  # number of steps; the first one compiles the model
# Numbers of timed steps: before the learning-rate finder, whose steps are timed as well, and
# without it.
_TIMED, _TIMED_ALONE = 5, 15
_FINDER_STEPS = (30, 100)  # the minimum and the maximum
_FINDER_FRACTION = 0.06  # fraction of the available time


@dataclass(frozen=True)
class Measurement:
    """The results of one measurement of a recipe."""

    step_seconds: float  # mean time of a step, including the input pipeline
    steps_per_epoch: int
    validation_seconds: float  # time of one evaluation on the validation split
    finder_steps: int  # 0 if there was no time for the learning-rate finder
    # The learning rate with the lowest loss; None if the loss never fell.
    lowest_loss_learning_rate: float | None


class _StepClock(keras.callbacks.Callback):
    """Record the time from the beginning of each step to the beginning of the next."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self._former: float | None = None

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Record the time since the previous step began."""
        now = time.perf_counter()
        if self._former is not None:
            self.seconds.append(now - self._former)
        self._former = now


def measure(recipe: Recipe, splits: Splits, seconds: float) -> Measurement:
    """Train a few steps of a recipe, evaluate a few batches, and run the learning-rate finder.

    Nothing is written, and the weights are discarded.

    Args:
        recipe: the recipe; its learning rate and its number of epochs are ignored.
        splits: the splits of the recipe's data, which the caller has already read.
        seconds: the time that is available for the whole training; the learning-rate finder uses a
            small fraction of it, and is skipped if this fraction is too short. With 0, only the
            times are measured.

    Raises:
        ValueError: a split does not exist or is empty, or the model does not exist.
    """
    prepared = prepare(recipe, splits)
    model, steps = prepared.model, prepared.training.steps
    validation, _ = prepared.open_held_out()
    batches = for_outputs(model, validation.epoch(0))
    model.evaluate(batches.take(1), verbose=0)  # compiles
    start = time.perf_counter()
    timed_batches = min(8, validation.steps)
    model.evaluate(batches.take(timed_batches), verbose=0)
    validation_seconds = (time.perf_counter() - start) / timed_batches * validation.steps

    def fit(count: int, *callbacks: keras.callbacks.Callback) -> list[float]:
        clock = _StepClock()
        model.fit(
            prepared.batches(),
            steps_per_epoch=count,
            shuffle=False,
            verbose=0,
            callbacks=[*callbacks, clock],
        )
        return clock.seconds

    timed = _TIMED if seconds else _TIMED_ALONE
    times = fit(_WARM_UP + timed + 1)[_WARM_UP:]
    step_seconds = statistics.fmean(times)
    affordable = int(_FINDER_FRACTION * seconds / step_seconds)
    minimum, maximum = _FINDER_STEPS
    finder_steps, lowest = min(affordable, maximum), None
    if finder_steps < minimum:
        finder_steps = 0
    else:
        finder = LRFinder(steps=finder_steps)
        model.optimizer.iterations.assign(0)  # so that the finder's schedule begins at its start
        # The first step compiles the step with the finder's schedule, and is not counted.
        step_seconds = statistics.fmean([*times, *fit(finder_steps, finder)[1:]])
        smoothed = finder.smoothed()
        if len(smoothed) > 1 and smoothed.min() < smoothed[0]:
            lowest = float(finder.learning_rates[int(smoothed.argmin())])
    clear_session()
    return Measurement(step_seconds, steps, validation_seconds, finder_steps, lowest)
