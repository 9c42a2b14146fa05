"""The learning rate over the steps: Keras' schedules by name, and those that Keras lacks."""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops
from keras.optimizers import schedules

from keras_cnns.recipes import OptimizerConfig, Recipe

register = keras.saving.register_keras_serializable("keras_cnns")


@register
class WarmUp(schedules.LearningRateSchedule):
    """Rise linearly from `start` to a schedule's rate, which it has from step `steps` on.

    References:
        Goyal et al. 2017, Accurate, large minibatch SGD (arXiv:1706.02677), section 2.2.
    """

    def __init__(self, schedule: Any, steps: int, start: float = 0.0) -> None:
        self.schedule, self.steps, self.start = schedule, steps, start

    def __call__(self, step: Any) -> Any:
        """Return the rate at a step."""
        rate = self.schedule(step) if callable(self.schedule) else self.schedule
        share = ops.minimum(ops.cast(step, "float32") / self.steps, 1.0)
        return self.start * (1.0 - share) + rate * share

    def get_config(self) -> dict[str, Any]:
        """Return what makes the same schedule."""
        return {"schedule": _serialize(self.schedule), "steps": self.steps, "start": self.start}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "WarmUp":
        """Return the schedule of a `get_config`."""
        return cls(**{**config, "schedule": _deserialize(config["schedule"])})


@register
class OneCycle(schedules.LearningRateSchedule):
    """Rise from a 25th of the peak to it, and fall to nearly nothing, each along half a cosine.

    References:
        Smith and Topin 2017, Super-convergence (arXiv:1708.07120), with torch's shape and figures.
    """

    START, END = 1 / 25, 1 / 25e4  # of the peak

    def __init__(self, peak: float, steps: int, rise: float = 0.3) -> None:
        self.peak, self.steps, self.rise = peak, steps, rise

    def __call__(self, step: Any) -> Any:
        """Return the rate at a step."""
        top = max(self.rise * self.steps, 1.0)
        step = ops.minimum(ops.cast(step, "float32"), self.steps)
        rising = self._between(self.START, 1.0, step / top)
        falling = self._between(1.0, self.END, (step - top) / max(self.steps - top, 1.0))
        return self.peak * ops.where(step < top, rising, falling)

    @staticmethod
    def _between(start: float, end: float, share: Any) -> Any:
        return end + (start - end) * (1 + ops.cos(math.pi * share)) / 2

    def get_config(self) -> dict[str, Any]:
        """Return what makes the same schedule."""
        return {"peak": self.peak, "steps": self.steps, "rise": self.rise}


@register
class HeldRate(schedules.LearningRateSchedule):
    """A constant rate before the step `held_until`, a variable, and a schedule's from it on.

    `HoldRate` sets it. It is a step and no switch, so that a step taken again has the same rate.
    """

    FOREVER = 2**31 - 1

    def __init__(self, schedule: Any, rate: float) -> None:
        self.schedule, self.rate = schedule, rate
        self.held_until = keras.Variable(
            self.FOREVER, dtype="int32", trainable=False, name="held_until"
        )

    def __call__(self, step: Any) -> Any:
        """Return the rate at a step."""
        rate = self.schedule(step) if callable(self.schedule) else self.schedule
        return ops.where(ops.cast(step, "int32") < self.held_until, self.rate, rate)

    def get_config(self) -> dict[str, Any]:
        """Return what makes the same schedule, held."""
        return {"schedule": _serialize(self.schedule), "rate": self.rate}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "HeldRate":
        """Return the schedule of a `get_config`."""
        return cls(_deserialize(config["schedule"]), config["rate"])


def _serialize(schedule: Any) -> Any:
    return schedules.serialize(schedule) if callable(schedule) else schedule


def _deserialize(schedule: Any) -> Any:
    return schedules.deserialize(schedule) if isinstance(schedule, dict) else schedule


def _step(config: OptimizerConfig, peak: float, steps: int, steps_per_epoch: int) -> Any:
    boundaries = config.decay_at_steps or tuple(
        round(epoch * steps_per_epoch) for epoch in config.decay_at_epochs
    )
    rates = [peak * config.decay_factor**number for number in range(len(boundaries) + 1)]
    # Keras changes the rate after a boundary's step; the papers count the steps taken before it.
    return schedules.PiecewiseConstantDecay([each - 1 for each in boundaries], rates)


# name -> what makes the schedule: configuration, peak, steps in all, steps of an epoch
SCHEDULES: dict[str, Callable[[OptimizerConfig, float, int, int], Any]] = {
    "constant": lambda config, peak, steps, epoch: peak,
    "step": _step,
    "cosine": lambda config, peak, steps, epoch: schedules.CosineDecay(peak, steps),
    "polynomial": lambda config, peak, steps, epoch: schedules.PolynomialDecay(
        peak, steps, end_learning_rate=0.0, power=config.power
    ),
    "one_cycle": lambda config, peak, steps, epoch: OneCycle(peak, steps, config.rise),
    "exponential": lambda config, peak, steps, epoch: schedules.ExponentialDecay(
        peak, round(config.decay_epochs * epoch), config.decay_factor, staircase=True
    ),
}


def make_schedule(recipe: Recipe, steps_per_epoch: int) -> Any:
    """Return the learning rate: a constant, or a schedule over steps."""
    config, training = recipe.optimizer, recipe.training
    peak, start = config.learning_rate, 0.0
    if config.rate_batch_size:
        peak *= training.batch_size / config.rate_batch_size
        start = min(config.learning_rate, peak)  # Goyal et al.: from the small batch's rate
    steps = training.steps or training.epochs * steps_per_epoch
    warmup = min(round(config.warmup_epochs * steps_per_epoch), steps - 1)
    if config.schedule == "cosine" and warmup:  # Keras' own, whose cosine begins after it
        rate: Any = schedules.CosineDecay(
            start, steps - warmup, warmup_target=peak, warmup_steps=warmup
        )
    else:
        rate = SCHEDULES[config.schedule](config, peak, steps, steps_per_epoch)
        rate = WarmUp(rate, warmup, start) if warmup else rate
    return HeldRate(rate, config.hold_rate) if config.hold_rate else rate
