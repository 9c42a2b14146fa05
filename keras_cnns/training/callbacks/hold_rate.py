"""A low learning rate until the net has begun to learn."""

from typing import Any

import keras


class HoldRate(keras.callbacks.Callback):
    """Let a held learning rate go as soon as the training error is under a share.

    The optimizer's schedule has a variable `held_until`, a step (`training.schedules.HeldRate`).
    The error is that of the epoch so far.

    Args:
        until_error: share of wrong training images, 0 to 1.
        monitor: the accuracy's name in the logs.

    Raises:
        ValueError: the optimizer's schedule cannot be held.

    References:
        He et al. 2015, Deep residual learning (arXiv:1512.03385), section 4.2, of 110 layers.
    """

    def __init__(self, until_error: float = 0.8, monitor: str = "accuracy") -> None:
        super().__init__()
        self.until_error, self.monitor = until_error, monitor
        self.released_at: int | None = None  # steps taken by then

    def set_model(self, model: keras.Model) -> None:
        """Find the schedule."""
        super().set_model(model)
        optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
        if not hasattr(optimizer._learning_rate, "held_until"):
            raise ValueError("HoldRate needs an optimizer whose learning rate is a HeldRate")
        self.schedule = optimizer._learning_rate
        self._tell()

    def get_state(self) -> dict[str, Any]:
        """Return what a resumed training has to know."""
        return {"released_at": self.released_at}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from a `get_state`."""
        self.released_at = state["released_at"]
        self._tell()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Look at the error, until it is low enough."""
        if self.released_at is None and 1 - float((logs or {})[self.monitor]) < self.until_error:
            self.released_at = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))
            self._tell()

    def _tell(self) -> None:
        step = self.schedule.FOREVER if self.released_at is None else self.released_at
        self.schedule.held_until.assign(step)
