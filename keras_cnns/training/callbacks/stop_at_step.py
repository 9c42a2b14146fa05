"""End a training after a number of steps."""

from typing import Any

import keras
from keras import ops

from keras_cnns.training.variables import fetch_variables


class StopAtStep(keras.callbacks.Callback):
    """End the training after a number of steps, counted by the optimizer over all epochs.

    Args:
        step: number of steps, at least 1.
    """

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """End the training if this was its last step."""
        fetch_variables(self.model)
        if int(ops.convert_to_numpy(self.model.optimizer.iterations)) >= self.step:
            self.model.stop_training = True
