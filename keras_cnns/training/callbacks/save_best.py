"""Save the model of the best epoch."""

import math
from pathlib import Path
from typing import Any

import keras

from keras_cnns.files import naming_the_file, replacing
from keras_cnns.messages import print_message


class SaveBest(keras.callbacks.Callback):
    """Save the model after each epoch that is at least as good as all earlier ones.

    The file is written atomically. If it cannot be written, the weights are kept in memory, and
    writing is tried again at the end of each epoch.

    Args:
        path: the path of the `.keras` file.
        monitor: the key of the logs to compare. Higher values are better, except for a key that
            ends in `loss`. For a model with several outputs, Keras' `val_loss` is the weighted sum
            of all losses, and `val_main_loss` is the loss of the main output.

    Raises:
        OSError: at the end of training, the best model still cannot be written.
    """

    def __init__(self, path: Path, monitor: str = "val_accuracy") -> None:
        super().__init__()
        self.path, self.monitor = path, monitor
        self.best = -math.inf
        self.best_epoch = 0  # number of the best epoch, from 1; 0 before the first one
        self.unsaved: list[Any] | None = None  # the best weights, while they are not in a file

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Save the model if this epoch is the best one so far."""
        if self.monitor not in (logs or {}):
            raise ValueError(f"the logs have no {self.monitor!r}, only {', '.join(logs or {})}")
        value = float((logs or {})[self.monitor])
        if self.monitor.endswith("loss"):
            value = -value
        is_better = (
            value >= self.best
        )  # among equally good epochs, prefer the last one, whose learning rate is lowest
        if is_better:
            self.best, self.best_epoch, self.unsaved = value, epoch + 1, None
        try:
            if is_better:
                self._save()
            else:
                self._save_unsaved()
        except OSError as error:
            self.unsaved = self.unsaved or self.model.get_weights()
            print_message(
                f"cannot write {self.path}: {error.strerror or error}; the best model, of epoch "
                f"{self.best_epoch}, is kept in memory, and writing is tried again after the next "
                "epoch"
            )

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """If the best model is not saved yet, try to save it one last time."""
        with naming_the_file(self.path):
            self._save_unsaved()

    def _save(self) -> None:
        with replacing(self.path) as partial:
            self.model.save(partial)

    def _save_unsaved(self) -> None:
        if self.unsaved:
            weights = self.model.get_weights()
            self.model.set_weights(self.unsaved)
            try:
                self._save()
            finally:
                self.model.set_weights(weights)
            self.unsaved = None
