import csv
from pathlib import Path
from typing import Any

import pytest
from two_layers import fit, make_model

from keras_cnns.training.callbacks import DiagnosticsLog, LearningRate, UpdateRatio


def callbacks(path: Path) -> list[Any]:
    diagnostics = [LearningRate(interval=2), UpdateRatio(interval=2)]
    return [*diagnostics, DiagnosticsLog(diagnostics, path)]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_a_measurement_and_a_column_a_figure(tmp_path: Path) -> None:
    path = tmp_path / "diagnostics.csv"
    path.write_text("what another training left\n")
    fit(make_model(), *callbacks(path), steps=5)
    rows = read(path)
    assert [row["step"] for row in rows] == ["0", "2", "4"]
    assert list(rows[0]) == [
        "step",
        "learning_rate",
        "update_ratio",
        "update_ratio/hidden",
        "update_ratio/head",
    ]
    assert all(float(row["learning_rate"]) == pytest.approx(0.1) for row in rows)
    assert float(rows[0]["update_ratio/hidden"]) > 0


def test_steps_that_are_taken_again_have_one_row(tmp_path: Path) -> None:
    path = tmp_path / "diagnostics.csv"
    first = callbacks(path)
    fit(make_model(), *first, steps=3)  # rows 0 and 2
    states = [callback.get_state() for callback in first]
    model = make_model()
    fit(model, *first, steps=4)  # rows 4 and 6, of steps that come again
    path.write_text(path.read_text() + "8,half a ro")
    second = callbacks(path)
    for callback, state in zip(second, states, strict=True):
        callback.set_state(state)
    fit(model, *second, steps=4)
    assert [row["step"] for row in read(path)] == ["0", "2", "4", "6"]


def test_rows_wait_while_they_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "there is no such folder yet" / "diagnostics.csv"
    every = callbacks(path)
    fit(make_model(), *every, steps=3)
    told = (
        f"cannot write {path}: No such file or directory; writing is tried again after the next "
        "measurement"
    )
    assert capsys.readouterr().err.splitlines() == [told]
    path.parent.mkdir()
    fit(make_model(), *every, steps=3)
    assert [row["step"] for row in read(path)] == ["0", "2", "4"]
