"""Which learning rates a net can be trained with."""

import math
from typing import Any

import keras
import numpy as np

SMOOTHING = 0.9  # of the loss: the share of what was before
WORSE = 4.0  # times the lowest loss: the net has diverged
SAFETY = 10.0  # the proposal is so many times below the rate at which the loss is lowest


class RangeTest(keras.callbacks.Callback):
    """Raise the rate a little each step, from far too low to far too high, and watch the loss.

    Give it to a `fit` of one epoch of so many steps, with a net that is not trained yet; it puts
    its rate in the place of the optimizer's, and ends the training when the loss has gone up to
    four times its lowest. Weights and optimizer are of no use afterwards.

    Args:
        lowest: the first rate.
        highest: the rate of the last step.
        steps: in between; the rate grows by the same factor in each.

    Attributes:
        rates: of the steps taken.
        losses: of their batches, before each step.

    References:
        Smith 2017, Cyclical learning rates for training neural networks (arXiv:1506.01186),
        section 3.3.
    """

    def __init__(self, lowest: float = 1e-5, highest: float = 10.0, steps: int = 100) -> None:
        super().__init__()
        if not 0 < lowest < highest or steps < 10:
            raise ValueError(
                f"a range test needs 0 < lowest < highest and at least 10 steps, "
                f"not {lowest}, {highest} and {steps}"
            )
        self.lowest, self.highest, self.steps = lowest, highest, steps
        self.rates: list[float] = []
        self.losses: list[float] = []

    def rate(self, step: int) -> float:
        """Return the rate of a step, from 0."""
        return float(self.lowest * (self.highest / self.lowest) ** (step / (self.steps - 1)))

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Put the rising rate into the optimizer."""
        self.rates, self.losses = [], []
        self.model.optimizer.learning_rate = keras.optimizers.schedules.ExponentialDecay(
            self.lowest, self.steps - 1, self.highest / self.lowest
        )

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Note the batch's loss, and stop where there is nothing more to learn."""
        mean = float((logs or {})["loss"])  # of the epoch's batches so far
        loss = mean * (batch + 1) - sum(self.losses)
        if not math.isfinite(loss):
            self.model.stop_training = True
            return
        self.rates.append(self.rate(batch))
        self.losses.append(loss)
        smoothed = self.smoothed()
        if len(smoothed) > 10 and smoothed[-1] > WORSE * smoothed.min():
            self.model.stop_training = True

    def smoothed(self) -> np.ndarray:
        """Return the losses' moving average, corrected for its beginning."""
        average, averages = 0.0, []
        for step, loss in enumerate(self.losses, start=1):
            average = SMOOTHING * average + (1 - SMOOTHING) * loss
            averages.append(average / (1 - SMOOTHING**step))
        return np.array(averages)

    def propose(self) -> float:
        """Return a rate to begin with: a tenth of that at which the loss is lowest, two digits.

        Raises:
            ValueError: the loss never fell.
        """
        smoothed = self.smoothed()
        if len(smoothed) < 2 or smoothed.min() >= smoothed[0]:
            raise ValueError(
                f"the loss never fell between the rates {self.lowest:g} and {self.highest:g}"
            )
        return float(f"{self.rates[int(smoothed.argmin())] / SAFETY:.1e}")
