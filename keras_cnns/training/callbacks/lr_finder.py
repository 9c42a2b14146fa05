"""Find the learning rates that a model can be trained with."""

import math
from typing import Any

import keras
import numpy as np

from keras_cnns.training.variables import fetch_variables

_SMOOTHING = 0.9  # weight of the previous average in the moving average of the losses
_DIVERGED = 4.0  # the model has diverged if the loss is more than this factor times its minimum
# To propose a learning rate, the learning rate with the lowest loss is divided by this factor.
_SAFETY = 10.0


class LRFinder(keras.callbacks.Callback):
    """Raise the learning rate with each step, from far too low to far too high.

    Pass the callback to `fit` for one epoch of `steps` steps, with a model that is not trained yet.
    The callback replaces the optimizer's learning rate, and ends the training when the smoothed
    loss exceeds four times its minimum. Discard the weights and the optimizer afterwards.

    The model's metrics are reset before every step, so that the logged `loss` is the loss of one
    batch. Otherwise, it would be the running mean over all steps, from which the loss of one batch
    cannot be computed exactly.

    Args:
        lowest: the learning rate of the first step.
        highest: the learning rate of the last step.
        steps: the number of steps; the learning rate grows by the same factor in each.

    Attributes:
        learning_rates: the learning rate of each step taken, float [steps taken].
        losses: the loss of each step on its batch, before the update, float [steps taken]; for a
            model with several outputs, the weighted sum of their losses.

    Raises:
        ValueError: the learning rates or `steps` are out of range. `fit` raises it too, if the
            model is compiled with `steps_per_execution` above 1.

    References:
        Smith 2017, Cyclical learning rates for training neural networks (arXiv:1506.01186),
        section 3.3, "learning rate range test".
    """

    def __init__(self, lowest: float = 1e-5, highest: float = 10.0, steps: int = 100) -> None:
        super().__init__()
        if not 0 < lowest < highest or steps < 10:
            raise ValueError(
                f"the learning-rate finder needs 0 < lowest < highest and at least 10 steps, but "
                f"lowest is {lowest}, highest is {highest}, and steps is {steps}"
            )
        self.lowest, self.highest, self.steps = lowest, highest, steps
        self.learning_rates: list[float] = []
        self.losses: list[float] = []

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Replace the optimizer's learning rate by the rising one."""
        if self.model.steps_per_execution != 1:
            raise ValueError(
                "the learning-rate finder reads the loss after every step; compile the model with "
                f"steps_per_execution=1, not {self.model.steps_per_execution}"
            )
        self.learning_rates, self.losses = [], []
        self.model.optimizer.learning_rate = keras.optimizers.schedules.ExponentialDecay(
            self.lowest, self.steps - 1, self.highest / self.lowest
        )
        # A compiled step of an earlier `fit` contains the earlier schedule.
        self.model.make_train_function(force=True)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Reset the metrics, so that the next logged loss is that of this batch alone."""
        fetch_variables(self.model)  # on JAX, makes `fit` use the reset metrics in the next step
        self.model.reset_metrics()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Record the batch's loss; end the training if the model has diverged."""
        loss = float((logs or {})["loss"])
        if not math.isfinite(loss):
            self.model.stop_training = True
            return
        factor = self.highest / self.lowest
        self.learning_rates.append(float(self.lowest * factor ** (batch / (self.steps - 1))))
        self.losses.append(loss)
        smoothed = self.smoothed()
        if len(smoothed) > 10 and smoothed[-1] > _DIVERGED * smoothed.min():
            self.model.stop_training = True

    def smoothed(self) -> np.ndarray:
        """Return the bias-corrected moving average of the losses, float [steps taken]."""
        average, averages = 0.0, []
        for step, loss in enumerate(self.losses, start=1):
            average = _SMOOTHING * average + (1 - _SMOOTHING) * loss
            averages.append(average / (1 - _SMOOTHING**step))
        return np.array(averages)

    def propose(self) -> float:
        """Return a tenth of the learning rate with the lowest smoothed loss, rounded to two digits.

        Raises:
            ValueError: the loss never fell.
        """
        smoothed = self.smoothed()
        if len(smoothed) < 2 or smoothed.min() >= smoothed[0]:
            raise ValueError(
                f"the loss never fell between the learning rates {self.lowest:g} and "
                f"{self.highest:g}"
            )
        return float(f"{self.learning_rates[int(smoothed.argmin())] / _SAFETY:.1e}")
