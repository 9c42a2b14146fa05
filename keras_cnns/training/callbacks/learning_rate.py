"""The learning rate."""

from typing import Any

from keras import ops

from keras_cnns.training.callbacks.diagnostic import Diagnostic
from keras_cnns.training.variables import fetch_variables


class LearningRate(Diagnostic):
    """Read the optimizer's learning rate, a constant or a schedule.

    Metric: `learning_rate`; in an epoch's logs it is the one at the end of the epoch.
    """

    def measure(self) -> dict[str, float]:
        """Return the learning rate of the next step."""
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        fetch_variables(self.model)
        return {"learning_rate": float(ops.convert_to_numpy(optimizer.learning_rate))}

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the current learning rate to the logs."""
        if logs is not None:
            logs.update(self.measure())
