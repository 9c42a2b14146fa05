import time
from pathlib import Path
from typing import Any

import keras
from two_layers import fit, make_model

from keras_cnns.runs.tables import read_times
from keras_cnns.training.callbacks import StepTime


class Sleep(keras.callbacks.Callback):
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        time.sleep(0.02)


def test_a_row_an_epoch(tmp_path: Path) -> None:
    path = tmp_path / "times.csv"
    fit(make_model(), StepTime(path), Sleep(), steps=5, epochs=2)
    first, second = read_times(path)
    assert (first["epoch"], second["epoch"]) == (1, 2)
    assert second["steps"] == 4  # from a begin to the next
    assert second["step_ms"] >= 20  # the callbacks of a step belong to it
    assert second["slow_step_ms"] >= second["step_ms"]
    assert second["seconds"] >= 0.1
