"""The CSV files of a run directory, as a crash or a spreadsheet leaves them."""

from pathlib import Path

import numpy as np

from keras_cnns.recipes import Recipe
from keras_cnns.runs.tables import format_rows, read_rows, read_times, to_columns
from keras_cnns.training import Run


def test_an_epoch_that_came_again_counts_once_and_half_a_row_not(tmp_path: Path) -> None:
    path = tmp_path / "times.csv"
    path.write_text("epoch,steps,seconds,step_ms,slow_step_ms\n1,9,9,1,9\n1,9,9,2,9\n2,9")
    assert [row["step_ms"] for row in read_times(path)] == [2]
    assert read_times(tmp_path / "absent.csv") == []


def test_a_history_that_a_spreadsheet_saved_is_read(quick_recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "history.csv").write_bytes(b"\xef\xbb\xbfepoch,loss\r\n1,0.5\r\n")
    assert Run(tmp_path, quick_recipe, ("a", "b")).history() == [{"epoch": 1.0, "loss": 0.5}]
    assert read_rows(tmp_path / "history.csv") == [{"epoch": 1.0, "loss": 0.5}]


def test_absent_values_are_empty_in_the_file_and_nan_in_a_column(tmp_path: Path) -> None:
    rows = [{"step": 1.0, "a": 0.5}, {"step": 2.0, "b": 3.0, "unlisted": 1.0}]
    text = format_rows(rows, ["step", "a", "b"], header=True)
    assert text == "step,a,b\n1.0,0.5,\n2.0,,3.0\n"
    (tmp_path / "table.csv").write_text(text)
    read = read_rows(tmp_path / "table.csv")
    assert read == [{"step": 1.0, "a": 0.5}, {"step": 2.0, "b": 3.0}]
    columns = to_columns(read)
    assert list(columns) == ["step", "a", "b"]
    np.testing.assert_array_equal(columns["b"], [np.nan, 3.0])
