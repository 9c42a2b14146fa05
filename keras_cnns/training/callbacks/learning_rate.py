"""The learning rate as a diagnostic."""

from typing import Any

from keras_cnns.training.callbacks.diagnostic import Diagnostic
from keras_cnns.training.variables import current_learning_rate


class LearningRate(Diagnostic):
    """Read the optimizer's learning rate, which may be a constant or a schedule.

    Metric: `learning_rate`; in an epoch's logs it is the learning rate at the end of the epoch.
    """

    def measure(self) -> dict[str, float]:
        """Return the learning rate of the next step."""
        return {"learning_rate": current_learning_rate(self.model)}

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the current learning rate to the logs."""
        if logs is not None:
            logs.update(self.measure())
