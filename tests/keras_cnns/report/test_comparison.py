import json
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
    rows = compare([finished_run.path, other], tmp_path / "comparison.html").rows
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


def copy_of(run: Run, path: Path, changes: dict[str, tuple[str, str]], accuracy: float) -> Path:
    """Copy a run, change its files (name -> old and new text), and set its test accuracy."""
    shutil.copytree(run.path, path)
    for name, (old, new) in changes.items():
        text = (path / name).read_text()
        assert old in text
        (path / name).write_text(text.replace(old, new))
    results = json.loads((path / "results.json").read_text())
    results["test"]["accuracy"] = accuracy
    (path / "results.json").write_text(json.dumps(results))
    return path


def test_runs_that_differ_in_the_seed_only_are_grouped(finished_run: Run, tmp_path: Path) -> None:
    def seed(number: int) -> dict[str, tuple[str, str]]:
        return {"config.toml": (f"seed = {finished_run.recipe.training.seed}", f"seed = {number}")}

    paths = [
        copy_of(finished_run, tmp_path / "a", seed(71), 0.5),
        copy_of(finished_run, tmp_path / "b", seed(72), 0.75),
        copy_of(finished_run, tmp_path / "b-again", seed(72), 0.75),
        copy_of(
            finished_run,
            tmp_path / "other",
            {"config.toml": ("momentum = 0.9", "momentum = 0.8")},
            1,
        ),
    ]
    found = compare(paths, tmp_path / "page.html")
    best = f"{max(row['val_accuracy'] for row in finished_run.history()):.2%}"
    assert found.seeds == [("a, b", "2", "62.50%", "17.68%", best)]
    assert {row[3] for row in found.rows} == {best}
    assert "<h2>Seeds</h2>" in (tmp_path / "page.html").read_text()
    assert compare(paths[1:], tmp_path / "page.html").seeds == []
    assert "<h2>Seeds</h2>" not in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"config.toml": ("momentum = 0.9", "momentum = 0.8")}, ""),
        ({"environment.json": ('"data_fingerprint": "', '"data_fingerprint": "x')}, "other data"),
        ({"config.toml": ('"test[:32]"', '"test[32:64]"')}, "the same data"),
        ({"results.json": ('"samples": 32', '"samples": 31')}, "the same data"),
    ],
)
def test_different_test_images_are_reported(
    finished_run: Run, tmp_path: Path, changes: dict[str, tuple[str, str]], reason: str
) -> None:
    other = copy_of(finished_run, tmp_path / "b", changes, 0.5)
    found = compare([finished_run.path, other], tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    assert bool(found.warning) == ("Warning: " in html) == bool(reason)
    if reason:
        assert "were tested on different images" in found.warning
        assert ("from different data sets" in found.warning) == (reason == "other data")
    (other / "results.json").unlink()  # an unfinished run has not been tested
    assert not compare([finished_run.path, other], tmp_path / "page.html").warning
