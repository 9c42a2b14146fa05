"""Keep the best epoch's model on disk."""

import math
from pathlib import Path
from typing import Any

import keras


class SaveBest(keras.callbacks.Callback):
    """Save the model after each epoch that is better than all before.

    The file is written beside its place and renamed into it: a reader, or a crash, finds the
    former best or the new one, never half of one.

    Args:
        path: of the `.keras` file.
        monitor: the logs' key to compare; higher is better unless it ends in `loss`.
    """

    def __init__(self, path: Path, monitor: str = "val_accuracy") -> None:
        super().__init__()
        self.path, self.monitor = path, monitor
        self.best = -math.inf
        self.best_epoch = 0  # counted from 1; 0 before the first save

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Compare, and save where this epoch is the best."""
        if self.monitor not in (logs or {}):
            raise ValueError(f"no {self.monitor!r} among the logs: {', '.join(logs or {})}")
        value = float((logs or {})[self.monitor])
        if self.monitor.endswith("loss"):
            value = -value
        if value >= self.best:  # of equals the later one, whose rate is lower
            partial = self.path.with_suffix(".partial.keras")
            try:
                self.model.save(partial)
                partial.replace(self.path)
            finally:
                partial.unlink(missing_ok=True)
            self.best, self.best_epoch = value, epoch + 1
