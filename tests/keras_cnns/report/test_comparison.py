import re
import shutil
from pathlib import Path

import pytest

from keras_cnns.report import compare
from keras_cnns.report.comparison import name_runs, render
from keras_cnns.report.records import read_records
from keras_cnns.report.run_report import learning
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
    assert "<td>optimizer.learning_rate</td>" not in html  # it does not differ
    for chart in ("Validation accuracy", "Training loss", "Gradient norm, first layer"):
        assert f'alt="{chart}' in html
    assert not re.findall(r'(?:src|href)="(?!data:)', html)


def test_losses_of_the_main_output_are_compared(finished_run: Run, tmp_path: Path) -> None:
    other = tmp_path / "with"
    shutil.copytree(finished_run.path, other)
    (other / "history.csv").write_text(
        "epoch,aux1_loss,loss,main_accuracy,main_loss,val_loss,val_main_accuracy,val_main_loss\n"
        "0,9,7,0.5,4,8,0.5,5\n1,8,6,0.6,3,7,0.6,4\n"
    )
    records = {"without": read_records(finished_run.path), "with": read_records(other)}
    shown = {
        name: list(records["with"].metric(name))
        for name in ("loss", "val_loss", "loss_sum", "val_loss_sum", "accuracy", "val_accuracy")
    }
    assert shown == {
        "loss": [4, 3],
        "val_loss": [5, 4],
        "loss_sum": [7, 6],
        "val_loss_sum": [8, 7],
        "accuracy": [0.5, 0.6],
        "val_accuracy": [0.5, 0.6],
    }
    assert list(records["without"].metric("loss_sum")) == []
    losses = [float(row["loss"]) for row in finished_run.history()]
    assert list(records["without"].metric("loss")) == losses
    title = "Weighted sum of the losses (main + auxiliary)"
    for kind in ("training", "validation"):
        assert f'alt="{title}, {kind}: loss against epoch' in render(records)
        assert title not in render({"without": records["without"]})
    drawn = {
        name: [chart.title for chart in learning(each).charts if chart]
        for name, each in records.items()
    }
    assert title in drawn["with"]
    assert title not in drawn["without"]


def test_names_of_runs_are_unique() -> None:
    assert name_runs(["runs/a", "runs/b"]) == ["a", "b"]
    assert name_runs(["x/a", "y/a"]) == ["x/a", "y/a"]
    assert name_runs(["a", "a"]) == ["a (1)", "a (2)"]


def test_other_paths_are_rejected(finished_run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nowhere"):
        compare([finished_run.path, tmp_path / "nowhere"], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
