"""Every epoch's numbers in a CSV file."""

import csv
from pathlib import Path

import pytest

from keras_cnns.training.callbacks import SaveHistory


def test_each_epoch_is_a_row_and_a_full_disk_costs_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "history.csv"
    callback = SaveHistory(path)
    callback.on_train_begin()
    callback.on_epoch_end(0, {"loss": 1.5})
    before = path.read_text()
    assert before == "epoch,loss\n0,1.5\n"
    (tmp_path / "history.partial.csv").symlink_to("/dev/full")
    callback.on_epoch_end(1, {"loss": 1.25})
    assert "history.csv: No space left on device; writing is tried again" in capsys.readouterr().err
    assert path.read_text() == before
    (tmp_path / "history.partial.csv").unlink()
    callback.on_epoch_end(2, {"loss": 1.0, "val_loss": 2.0})
    with path.open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["epoch", "loss", "val_loss"],
            ["0", "1.5", ""],
            ["1", "1.25", ""],
            ["2", "1.0", "2.0"],
        ]
    assert [each.name for each in tmp_path.iterdir()] == ["history.csv"]
