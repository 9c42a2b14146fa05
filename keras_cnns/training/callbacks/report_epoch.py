"""Report the validation accuracy of each epoch, and end the training on request."""

from collections.abc import Callable
from typing import Any

import keras

from keras_cnns.runs.logs import by_main_output


class ReportEpoch(keras.callbacks.Callback):
    """Report the validation accuracy of each epoch, and end the training early on request.

    A training that ends early counts as finished: like any other, it has a best model and test
    metrics.

    Args:
        report: a function of the epoch, counted from 1, and its validation accuracy from 0 to 1; it
            returns True to end the training.

    Raises:
        ValueError: the training has no validation accuracy.
    """

    def __init__(self, report: Callable[[int, float], bool]) -> None:
        super().__init__()
        self.report = report

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Report the epoch."""
        named = by_main_output(logs or {})
        if "val_accuracy" not in named:
            raise ValueError(f"the logs have no 'val_accuracy', only {', '.join(named)}")
        if self.report(epoch + 1, float(named["val_accuracy"])):
            self.model.stop_training = True
