"""What the learning rate is."""

from typing import Any

from keras import ops

from keras_cnns.training.callbacks.diagnostic import Diagnostic


class LearningRate(Diagnostic):
    """Read the optimizer's learning rate, be it a constant or a schedule.

    Figure: `learning_rate`; in an epoch's logs it is the one at the epoch's end.
    """

    def measure(self) -> dict[str, float]:
        """Return the rate of the step that is to come."""
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()  # `fit` keeps the number of steps to itself
        return {"learning_rate": float(ops.convert_to_numpy(optimizer.learning_rate))}

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Give the rate as it is now to the logs."""
        if logs is not None:
            logs.update(self.measure())
