import shutil
from pathlib import Path

import pytest

from keras_cnns.report import compare
from keras_cnns.report.comparison import name_runs
from keras_cnns.training import Run, RunError


def test_runs_side_by_side(finished_run: Run, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(finished_run.path, other)
    config = (other / "config.toml").read_text()
    (other / "config.toml").write_text(config.replace("momentum = 0.9", "momentum = 0.8"))
    (other / "results.json").unlink()
    rows = compare([finished_run.path, other], tmp_path / "comparison.html")
    accuracy = f"{finished_run.results()['test']['accuracy']:.2%}"
    assert [row[:2] for row in rows] == [("quick", accuracy), ("other", "not finished")]
    html = (tmp_path / "comparison.html").read_text()
    assert "<tr><td>optimizer.momentum</td><td>0.9</td><td>0.8</td></tr>" in html
    assert "<td>optimizer.learning_rate</td>" not in html  # it is the same
    for diagram in ("Validation accuracy", "Training loss", "First layer&#x27;s gradient by"):
        assert f'aria-label="{diagram}' in html
    assert "src=" not in html


def test_names_tell_runs_apart() -> None:
    assert name_runs(["runs/a", "runs/b"]) == ["a", "b"]
    assert name_runs(["x/a", "y/a"]) == ["x/a", "y/a"]
    assert name_runs(["a", "a"]) == ["a (1)", "a (2)"]


def test_what_is_no_run_is_refused(finished_run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nowhere"):
        compare([finished_run.path, tmp_path / "nowhere"], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
