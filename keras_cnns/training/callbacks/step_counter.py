"""Count the steps of a training."""

from typing import Any

import keras


class StepCounter(keras.callbacks.Callback):
    """Count the steps that `fit` takes, even with `steps_per_execution` above 1.

    Keras calls a callback once per execution of the training function, which takes as many steps as
    the model's `steps_per_execution`.

    Attributes:
        step: number of steps taken.
    """

    def __init__(self) -> None:
        super().__init__()
        self.step = 0
        self._first_batch = 0

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Record the first batch of the execution."""
        self._first_batch = batch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the steps of the execution."""
        self.step += batch - self._first_batch + 1
