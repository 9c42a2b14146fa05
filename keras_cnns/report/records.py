"""Read what a run directory holds about its training, finished or not."""

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
)
from keras_cnns.runs.run import Run, RunError, check_directory, read_config, read_label_file
from keras_cnns.runs.tables import Columns, read_rows, read_times, to_columns

LOSSES = "Weighted sum of the losses (main + auxiliary)"  # the title of its charts


@dataclass(frozen=True)
class Records:
    """A training, as far as it has come."""

    run: Run
    history: Columns  # by epoch
    diagnostics: Columns  # by measurement
    times: Columns  # by epoch
    results: dict[str, Any] | None  # of a finished run
    environment: dict[str, Any]

    @property
    def has_model(self) -> bool:
        """Say whether an epoch's model was saved."""
        return (self.run.path / MODEL).is_file()

    def epochs(self) -> np.ndarray:
        """Return the numbers of the epochs, from 1."""
        return self.history.get("epoch", np.array([])) + 1

    def layers(self, figure: str) -> list[str]:
        """Return the layers that have a figure of this name, in order of depth."""
        prefix = f"{figure}/"
        return [name.removeprefix(prefix) for name in self.diagnostics if name.startswith(prefix)]

    def by_layer(self, figure: str) -> np.ndarray:
        """Return a figure's values [measurements, layers]."""
        columns = [self.diagnostics[f"{figure}/{layer}"] for layer in self.layers(figure)]
        return np.stack(columns, axis=1) if columns else np.zeros((0, 0))

    def metric(self, name: str) -> np.ndarray:
        """Return a metric of the main output by epoch, float [epochs]; empty if there is none.

        Args:
            name: `loss`, `accuracy`, `val_loss`, `val_accuracy`; or `loss_sum` and `val_loss_sum`,
                the weighted sums of the losses, which only models with auxiliary outputs have.
        """
        return by_main_output(self.history).get(name, np.array([]))


def read_records(path: str | Path) -> Records:
    """Read a run directory, also of a training that still runs or was stopped.

    Raises:
        RunError: it is not there, or no training has begun in it.
    """
    path = Path(path)
    check_directory(path)
    if not (path / CONFIG).is_file() or not (path / LABELS).is_file():
        raise RunError(
            f"{path} is not a run: it has no {CONFIG} and {LABELS}, which `train` writes"
        )
    run = Run(path, read_config(path), read_label_file(path))
    try:
        return Records(
            run,
            to_columns(read_rows(path / HISTORY)),
            to_columns(read_rows(path / DIAGNOSTICS)),
            to_columns(read_times(path / TIMES)),
            read_json(path / RESULTS),
            read_json(path / ENVIRONMENT) or {},
        )
    except (ValueError, csv.Error) as error:
        raise RunError(f"{path} holds a damaged file: {error}") from error


def read_json(path: Path) -> Any:
    """Return a file's value, None without the file."""
    return json.loads(path.read_text("utf-8")) if path.is_file() else None
