"""Learning-rate schedules that Keras lacks; each is a pure function of the step."""

import math
from typing import Any

import keras
from keras import ops
from keras.optimizers import schedules

_register = keras.saving.register_keras_serializable("keras_cnns")


class _Wrapper(schedules.LearningRateSchedule):
    """A schedule that modifies another schedule, which is a float or a `LearningRateSchedule`."""

    schedule: Any

    def _inner(self, step: Any) -> Any:
        return self.schedule(step) if callable(self.schedule) else self.schedule

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, for saving."""
        schedule = self.schedule
        if callable(schedule):
            schedule = schedules.serialize(schedule)
        return {**vars(self), "schedule": schedule}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Return the schedule that `get_config` describes."""
        schedule = config["schedule"]
        if isinstance(schedule, dict):
            schedule = schedules.deserialize(schedule)
        return cls(**{**config, "schedule": schedule})


@_register
class WarmUp(_Wrapper):
    """Rise linearly from `start` to the learning rate of a schedule within the first `steps` steps.

    ```
    start + (schedule(step) - start) * min(step / steps, 1)
    ```

    >>> warmup = WarmUp(0.1, steps=4)
    >>> [round(float(warmup(step)), 3) for step in (0, 1, 4, 9)]
    [0.0, 0.025, 0.1, 0.1]

    Args:
        schedule: a float, or a `LearningRateSchedule` that is called with the same step.
        steps: training steps of the warmup, above 0.
        start: the learning rate of step 0, at least 0.

    Raises:
        ValueError: `steps` is not above 0.

    References:
        Goyal et al. 2017, Accurate, large minibatch SGD (arXiv:1706.02677), section 2.2, "gradual
        warmup".
    """

    def __init__(self, schedule: Any, steps: int, start: float = 0.0) -> None:
        _check_steps(steps)
        self.schedule, self.steps, self.start = schedule, steps, start

    def __call__(self, step: Any) -> Any:
        """Return the learning rate of a step."""
        fraction = ops.minimum(ops.cast(step, "float32") / self.steps, 1.0)
        return self.start * (1.0 - fraction) + self._inner(step) * fraction


@_register
class ConstantWarmUp(_Wrapper):
    """Keep a low learning rate for the first steps, then follow a schedule.

    >>> warmup = ConstantWarmUp(0.1, steps=400, learning_rate=0.01)
    >>> [round(float(warmup(step)), 3) for step in (0, 399, 400)]
    [0.01, 0.01, 0.1]

    Args:
        schedule: a float, or a `LearningRateSchedule` that is called with the same step.
        steps: training steps of the warmup, above 0.
        learning_rate: the learning rate of the warmup, above 0.

    Raises:
        ValueError: `steps` is not above 0.

    References:
        He et al. 2015, Deep residual learning (arXiv:1512.03385), section 4.2: ResNet-110 starts
        with 0.01 for about 400 steps.
    """

    def __init__(self, schedule: Any, steps: int, learning_rate: float) -> None:
        _check_steps(steps)
        self.schedule, self.steps, self.learning_rate = schedule, steps, learning_rate

    def __call__(self, step: Any) -> Any:
        """Return the learning rate of a step."""
        is_warmup = ops.cast(step, "float32") < self.steps
        return ops.where(is_warmup, self.learning_rate, self._inner(step))


@_register
class HeldRate(ConstantWarmUp):
    """Load a schedule `HeldRate`, which earlier versions saved, as a `ConstantWarmUp`."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ConstantWarmUp:
        """Return a warmup of 400 steps, as in the paper."""
        config = {**config, "steps": 400, "learning_rate": config["rate"]}
        del config["rate"]
        warmup: ConstantWarmUp = ConstantWarmUp.from_config(config)
        return warmup


@_register
class OneCycle(schedules.LearningRateSchedule):
    """Rise from peak / 25 to the peak, then fall to peak / 250,000, both along half a cosine.

    >>> schedule = OneCycle(peak=1.0, steps=10)
    >>> [round(float(schedule(step)), 3) for step in (0, 3, 10)]
    [0.04, 1.0, 0.0]

    Args:
        peak: the highest learning rate, above 0.
        steps: training steps of the whole cycle.
        rise: fraction of the steps before the peak, 0 to 1.

    References:
        Smith and Topin 2017, Super-convergence (arXiv:1708.07120), with the shape and the defaults
        of torch's OneCycleLR.
    """

    START, END = 1 / 25, 1 / 25e4  # fractions of the peak

    def __init__(self, peak: float, steps: int, rise: float = 0.3) -> None:
        _check_steps(steps)
        self.peak, self.steps, self.rise = peak, steps, rise

    def __call__(self, step: Any) -> Any:
        """Return the learning rate of a step."""
        top = max(self.rise * self.steps, 1.0)
        step = ops.minimum(ops.cast(step, "float32"), self.steps)
        rising = self._between(self.START, 1.0, step / top)
        falling = self._between(1.0, self.END, (step - top) / max(self.steps - top, 1.0))
        return self.peak * ops.where(step < top, rising, falling)

    @staticmethod
    def _between(start: float, end: float, fraction: Any) -> Any:
        return end + (start - end) * (1 + ops.cos(math.pi * fraction)) / 2

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, for saving."""
        return dict(vars(self))


def _check_steps(steps: int) -> None:
    if not steps > 0:
        raise ValueError(f"steps is {steps}; it must be above 0")
