"""The review of labels: planted wrong labels come first, and its table becomes corrections."""

import csv
import json
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import planted
import pytest

from keras_cnns.cli import app
from keras_cnns.cli import run as run_command
from keras_cnns.data.sources.folder.corrections import read_corrections
from keras_cnns.data.sources.folder.layout import read_layout
from keras_cnns.report import write_report
from keras_cnns.review import Review, review
from keras_cnns.review.duration import estimate_duration
from keras_cnns.review.scores import rank_labels
from keras_cnns.runs.evaluation import predict_split
from keras_cnns.runs.tables import read_times
from keras_cnns.training import Run, RunError, open_run, train
from keras_cnns.training.folds import fold_path


def test_labels_are_ranked_by_self_confidence_with_a_threshold_for_each_class() -> None:
    probabilities = np.array(
        [[0.9, 0.1], [0.5, 0.5], [0.1, 0.9], [0.2, 0.8], [0.4, 0.6], [0.45, 0.55]]
    )
    labels = np.array([0, 0, 0, 1, 1, 0])
    found = rank_labels(probabilities, labels)
    np.testing.assert_allclose(found.thresholds, [(0.9 + 0.5 + 0.1 + 0.45) / 4, 0.7])
    assert found.order.tolist() == [2, 5, 1, 4, 3, 0]
    # The last one's probability of class 1, 0.55, is below the threshold of that class.
    assert found.is_issue.tolist() == [False, False, True, False, False, False]
    assert found.suggested.tolist() == [1, 1, 1, 0, 0, 1]


def test_a_class_without_images_has_no_threshold() -> None:
    found = rank_labels(np.array([[0.1, 0.1, 0.8], [0.8, 0.1, 0.1]]), np.array([0, 0]))
    assert np.isnan(found.thresholds).tolist() == [False, True, True]
    assert not found.is_issue.any()


@pytest.fixture(scope="module")
def reviewed(trained_folds: Path, tmp_path_factory: pytest.TempPathFactory) -> Review:
    return review(trained_folds, to=tmp_path_factory.mktemp("review") / "a & b")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_planted_labels_come_first(reviewed: Review) -> None:
    rows = rows_of(reviewed.table)
    assert len(rows) == 3 * planted.EACH + len(planted.WRONG) + 2
    assert [int(row["rank"]) for row in rows] == list(range(1, len(rows) + 1))
    first = {row["file"].removeprefix("'"): row for row in rows[: len(planted.WRONG)]}
    assert first.keys() == planted.WRONG.keys()
    for name, label in planted.WRONG.items():
        assert first[name]["suggested_label"].removeprefix("'") == label
        assert first[name]["is_issue"] == "yes"
    assert {row["split"] for row in rows} == {"train", "validation", "test"}


def test_no_cell_is_a_formula_and_no_name_is_markup(reviewed: Review) -> None:
    cells = [cell for row in rows_of(reviewed.table) for cell in row.values()]
    assert any(cell.startswith("'=2+5/") for cell in cells)
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@", "\t"))]
    html = reviewed.page.read_text("utf-8")
    assert "<img src=x" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;" in html


def test_the_page_links_to_the_files_in_the_order_of_the_table(
    reviewed: Review, planted_folder: Path
) -> None:
    html = reviewed.page.read_text("utf-8")
    links = re.findall(r'<a href="([^#"][^"]*)">', html)
    rows = rows_of(reviewed.table)
    expected = [planted_folder / row["file"].removeprefix("'") for row in rows]
    found = [(reviewed.page.parent / unquote(link)).resolve() for link in links]
    assert found == [path.resolve() for path in expected]
    assert "data.corrections=corrections.csv" in html
    assert "<script" not in html


def test_the_edited_table_is_a_corrections_file(
    reviewed: Review, planted_folder: Path, tmp_path: Path
) -> None:
    rows = rows_of(reviewed.table)
    wrong, label = next(iter(planted.WRONG.items()))
    for row in rows:
        if row["file"].removeprefix("'") == wrong:
            row["label"] = row["suggested_label"]
    rows[-1]["exclude"] = "yes"
    path = tmp_path / "corrections.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    found = read_corrections(path, planted_folder, read_layout(planted_folder).files)
    assert found.labels == {planted_folder / wrong: label}
    assert found.excluded == {planted_folder / rows[-1]["file"].removeprefix("'")}


def test_a_run_remembers_its_corrections(
    planted_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted.register(monkeypatch)
    monkeypatch.chdir(tmp_path)
    text = f"file,exclude\n{planted.PLAIN}/01.png,yes\n" + "".join(
        f"{planted.PLAIN}/{number:02}.png,yes\n" for number in range(10, 20)
    )
    Path("corrections.csv").write_text(text)
    recipe = planted.make_recipe(planted_folder, corrections="corrections.csv")
    run = train(recipe, tmp_path / "run")
    assert (run.path / "corrections.csv").read_text() == text
    Path("corrections.csv").unlink()
    images = sum(
        len(predict_split(open_run(run.path), split).labels)
        for split in ("train", "validation", "test")
    )
    assert images == 3 * planted.EACH + len(planted.WRONG) + 2 - 11
    html = write_report(run.path).read_text("utf-8")
    assert "<dd>0 and 11</dd>" in html


def test_an_edited_table_is_not_overwritten(trained_folds: Path, tmp_path: Path) -> None:
    first = review(trained_folds, to=tmp_path)
    review(trained_folds, to=tmp_path)
    first.table.write_text(first.table.read_text("utf-8").replace(",no\n", ",no \n"), "utf-8")
    with pytest.raises(ValueError, match=r"labels.csv has been edited.* rename it"):
        review(trained_folds, to=tmp_path)


def test_the_minutes_come_from_the_measured_steps(
    trained_folds: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "run"
    shutil.copytree(fold_path(trained_folds, 1), path)
    config = (path / "config.toml").read_text("utf-8")
    (path / "config.toml").write_text(re.sub(r"(?m)^(folds?) = \d", r"\1 = 0", config), "utf-8")
    run = open_run(path)
    found = estimate_duration(run, images=100, folds=5, remaining=4)
    assert found
    assert (found.steps_per_epoch, found.epochs) == (40, 3)
    step = np.median([row["step_ms"] for row in read_times(path / "times.csv")]) / 1e3
    assert found.step_seconds == pytest.approx(step)
    assert found.seconds >= 4 * 3 * 40 * step
    assert found.describe().startswith("training 4 folds takes about ")
    results = json.loads((path / "results.json").read_text("utf-8"))
    (path / "results.json").write_text(json.dumps(results | {"last_epoch": 2}))  # ended early
    shorter = estimate_duration(run, images=100, folds=5, remaining=4)
    assert shorter
    assert shorter.seconds == pytest.approx(found.seconds * 2 / 3)
    # The finished folds of the folder are used, and the other one is trained.
    planted.register(monkeypatch)
    folds = tmp_path / "run-review"
    shutil.copytree(trained_folds, folds)
    shutil.rmtree(fold_path(folds, 2))
    review(path, folds=2)
    output = capsys.readouterr()
    assert "fold 2/2, epoch" in output.out
    assert "fold 1/2, epoch" not in output.out
    assert re.search(r"training 1 fold takes about \d.*: 2 epochs of \d+ steps each", output.err)
    assert (folds / "labels.csv").is_file()
    (path / "times.csv").unlink()
    assert estimate_duration(run, images=100, folds=5, remaining=4) is None
    # Now all of them are finished, and nothing is trained.
    before = (folds / "labels.csv").read_bytes()
    assert run_command(app, ["data", "review", str(path), "--folds", "2"], "keras-cnns") == 0
    printed = capsys.readouterr().out
    assert "epoch" not in printed
    assert "labels are probably wrong; " in printed
    assert all(label in printed for label in (planted.FORMULA, planted.MARKUP, planted.PLAIN))
    assert (folds / "labels.csv").read_bytes() == before


def test_wrong_runs_are_refused(trained_folds: Path, finished_run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is the run of fold 1 of 2; review the directory of all"):
        review(fold_path(trained_folds, 1), to=tmp_path)
    with pytest.raises(RunError, match="has 2 folds, and not 3"):
        review(trained_folds, folds=3, to=tmp_path)
    shutil.copytree(fold_path(trained_folds, 1), fold_path(tmp_path / "begun", 1))
    with pytest.raises(RunError, match=r"the folds in .*begun are not finished; repeat"):
        review(tmp_path / "begun")
    (tmp_path / "labels.csv").touch()
    with pytest.raises(ValueError, match=r"labels.csv is the table of another review"):
        review(finished_run.path, to=tmp_path)  # before the folds are trained
    with pytest.raises(RunError, match="there is no run directory"):
        review(tmp_path / "none", to=tmp_path)
    assert finished_run.path.exists()
