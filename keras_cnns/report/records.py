"""Read the records of a training, finished or not, from its run directory."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_cnns.runs.logs import by_main_output
from keras_cnns.runs.names import (
    CONFIG,
    DIAGNOSTICS,
    ENVIRONMENT,
    HISTORY,
    LABELS,
    MODEL,
    RESULTS,
    TIMES,
    UNKNOWN,
)
from keras_cnns.runs.run import Run, RunError, check_directory, read_label_file, read_recipe
from keras_cnns.runs.tables import Columns, read_rows, read_times, to_columns

LOSS_SUM_TITLE = "Weighted sum of the losses (main + auxiliary)"  # a title of charts


@dataclass(frozen=True)
class Records:
    """The records of a training so far."""

    run: Run
    history: Columns  # a row for each epoch
    diagnostics: Columns  # a row for each measurement
    times: Columns  # a row for each epoch
    results: dict[str, Any] | None  # None for an unfinished run
    environment: dict[str, Any]
    unknown: dict[str, Any] | None = None  # the result of `evaluate --unknown`

    @property
    def has_model(self) -> bool:
        """Return whether the run directory contains a saved model."""
        return (self.run.path / MODEL).is_file()

    def epochs(self) -> np.ndarray:
        """Return the finished epochs, counted from 1."""
        return self.history.get("epoch", np.array([])) + 1

    def layers(self, metric: str) -> list[str]:
        """Return the layers for which a metric was measured, in order of depth."""
        prefix = f"{metric}/"
        return [name.removeprefix(prefix) for name in self.diagnostics if name.startswith(prefix)]

    def by_layer(self, metric: str) -> np.ndarray:
        """Return a metric's values [measurements, layers]."""
        columns = [self.diagnostics[f"{metric}/{layer}"] for layer in self.layers(metric)]
        return np.stack(columns, axis=1) if columns else np.zeros((0, 0))

    def by_epoch(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the epochs and the values of `metric(name)`; both are empty without values."""
        values = self.metric(name)
        return self.epochs()[: len(values)], values

    def by_step(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the training steps and a diagnostic metric; both are empty without values."""
        values = self.diagnostics.get(name, np.array([]))
        return self.diagnostics.get("step", np.array([]))[: len(values)], values

    def metric(self, name: str) -> np.ndarray:
        """Return a metric of the main output, float [epochs]; empty if it was not recorded.

        Args:
            name: `loss`, `accuracy`, `val_loss`, `val_accuracy`; or `loss_sum` and `val_loss_sum`,
                the weighted sums of the losses, which only models with auxiliary outputs have.
        """
        return by_main_output(self.history).get(name, np.array([]))


def read_records(path: str | Path) -> Records:
    """Read a run directory; its training may still be running, or may have been stopped.

    Raises:
        RunError: there is no such directory, or no training was started in it.
    """
    path = Path(path)
    check_directory(path)
    if not (path / CONFIG).is_file() or not (path / LABELS).is_file():
        raise RunError(f"{path} is not a run: it lacks {CONFIG} or {LABELS}, which `train` writes")
    run = Run(path, read_recipe(path), read_label_file(path))
    try:
        return Records(
            run,
            to_columns(read_rows(path / HISTORY)),
            to_columns(read_rows(path / DIAGNOSTICS)),
            to_columns(read_times(path / TIMES)),
            _read_json(path / RESULTS),
            _read_json(path / ENVIRONMENT) or {},
            _read_json(path / UNKNOWN),
        )
    except (ValueError, csv.Error) as error:
        raise RunError(f"{path} holds a damaged file: {error}") from error


def _read_json(path: Path) -> Any:
    """Return the content of a JSON file, or None if there is no such file."""
    return json.loads(path.read_text("utf-8")) if path.is_file() else None
