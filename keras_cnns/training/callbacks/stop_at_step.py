"""An end within an epoch."""

from typing import Any

import keras


class StopAtStep(keras.callbacks.Callback):
    """End the training after a number of steps, counted over all epochs.

    Args:
        step: how many steps to take.
    """

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """End it, if it was the last step."""
        if int(self.model.optimizer.iterations) >= self.step:
            self.model.stop_training = True
