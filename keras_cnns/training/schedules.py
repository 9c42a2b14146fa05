"""The learning-rate schedule of a recipe."""

from collections.abc import Callable
from typing import Any

from keras.optimizers import schedules

from keras_cnns.optimizers.schedules import ConstantWarmUp, OneCycle, WarmUp
from keras_cnns.recipes import OptimizerConfig, Recipe


def _step(config: OptimizerConfig, peak: float, steps: int, steps_per_epoch: int) -> Any:
    boundaries = config.decay_at_steps or tuple(
        round(epoch * steps_per_epoch) for epoch in config.decay_at_epochs
    )
    learning_rates = [peak * config.decay_factor**number for number in range(len(boundaries) + 1)]
    # minus 1, since Keras changes the learning rate after the step whose number is the boundary,
    # and the papers change it before this step.
    return schedules.PiecewiseConstantDecay([each - 1 for each in boundaries], learning_rates)


# Name -> a function that takes the configuration, the peak, the number of steps of the training and
# the number of steps per epoch, and returns the schedule.
SCHEDULES: dict[str, Callable[[OptimizerConfig, float, int, int], Any]] = {
    "constant": lambda config, peak, steps, epoch: peak,
    "step": _step,
    "cosine": lambda config, peak, steps, epoch: schedules.CosineDecay(peak, steps),
    "polynomial": lambda config, peak, steps, epoch: schedules.PolynomialDecay(
        peak, steps, end_learning_rate=0.0, power=config.power
    ),
    "one_cycle": lambda config, peak, steps, epoch: OneCycle(peak, steps, config.rise_fraction),
    "exponential": lambda config, peak, steps, epoch: schedules.ExponentialDecay(
        peak, max(1, round(config.decay_every_epochs * epoch)), config.decay_factor, staircase=True
    ),
}


def make_schedule(recipe: Recipe, steps_per_epoch: int) -> Any:
    """Return the learning rate: a constant, or a schedule over steps."""
    config, training = recipe.optimizer, recipe.training
    peak, start = config.learning_rate, 0.0
    if config.reference_batch_size:
        peak *= training.batch_size / config.reference_batch_size
        # The warmup of Goyal et al. starts at the learning rate for `reference_batch_size`.
        start = min(config.learning_rate, peak)
    steps = training.max_steps or training.epochs * steps_per_epoch
    warmup = min(round(config.warmup_epochs * steps_per_epoch), steps - 1)
    # Keras' cosine schedule has its own warmup, and begins the cosine after it.
    if config.schedule == "cosine" and warmup:
        learning_rate: Any = schedules.CosineDecay(
            start, steps - warmup, warmup_target=peak, warmup_steps=warmup
        )
    else:
        learning_rate = SCHEDULES[config.schedule](config, peak, steps, steps_per_epoch)
        learning_rate = WarmUp(learning_rate, warmup, start) if warmup else learning_rate
    if config.constant_warmup_steps:
        learning_rate = ConstantWarmUp(
            learning_rate, config.constant_warmup_steps, config.constant_warmup_learning_rate
        )
    return learning_rate
