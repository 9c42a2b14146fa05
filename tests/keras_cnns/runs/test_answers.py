"""Predictions in a file: one row for each image, even if the command is started again."""

import csv
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from keras_cnns.cli import app, run
from keras_cnns.runs.answers import Answer, AnswerFile
from keras_cnns.training import Run, predict

RANKED = (("cat", 0.7512345), ("dog", 0.25))
# Spreadsheets take some of these names for formulas; others contain separators of cells and rows.
NAMES = ["=1+1.png", "+a.png", "-b.png", "@c.png", 'a,"b".png', "two\nlines.png", "ä.png"]
NAMES += ["carriage\rreturn.png"]


def read(path: Path) -> list[dict[str, str]]:
    if path.suffix == ".jsonl":
        lines = path.read_text("utf-8").splitlines()
        return [json.loads(line) for line in lines]
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_names_stay_as_they_are(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"answers{suffix}"
    names = [*NAMES, os.fsdecode(b"latin-\xe4.png")]
    with AnswerFile(path, 2) as file:
        file.append([Answer(name, (("=cat", 0.75), ("dog", 0.25))) for name in names])
        file.append([Answer("bad.png", error="no image, at all")])
    rows = read(path)
    assert [row["file"] for row in rows] == [*names, "bad.png"]
    assert {row["label"] for row in rows[:-1]} == {"=cat"}
    assert rows[-1]["error"] == "no image, at all"
    with AnswerFile(path, 2) as file:
        assert file.finished == dict.fromkeys(names, False) | {"bad.png": True}
    assert read(path) == rows


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_rows_of_another_threshold_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"answers{suffix}"
    with AnswerFile(path, 2, min_probability=0.6) as file:
        file.append([Answer("a.png", (("cat", 0.75), ("dog", 0.25)))])
        file.append([Answer("b.png", (("cat", 0.6), ("dog", 0.4)))])
        file.append([Answer("c.png", (("cat", 0.55), ("dog", 0.45)), unknown=True)])
        file.append([Answer("bad.png", error="no image")])
    before = path.read_bytes()
    where = {".csv": "row", ".jsonl": "line"}[suffix]
    for threshold, number in ((0.7, 2), (0.5, 3)):
        number += suffix == ".csv"  # the header is the first row
        message = f"{where} {number} was written with another threshold than {threshold}; choose"
        with pytest.raises(ValueError, match=re.escape(message)):
            AnswerFile(path, 2, min_probability=threshold)
        assert path.read_bytes() == before
    for threshold in (0.6, 0.58, 0.6000004):  # rounding may have changed the last digit
        with AnswerFile(path, 2, min_probability=threshold) as file:
            assert len(file.finished) == 4


def test_two_processes_do_not_write_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    with AnswerFile(path, 2) as first:
        with pytest.raises(ValueError, match=r"^another process is writing to .*answers\.csv$"):
            AnswerFile(path, 2)
        first.append([Answer("x.png", RANKED)])
    with AnswerFile(path, 2) as second:
        assert second.finished == {"x.png": False}
    assert len(read(path)) == 1


def test_the_columns(tmp_path: Path) -> None:
    with AnswerFile(tmp_path / "answers.csv", 2) as file:
        file.append([Answer("x.png", RANKED), Answer("y.png", error="bad")])
    assert (tmp_path / "answers.csv").read_text() == (
        "file,label,probability,label_2,probability_2,error\n"
        "x.png,cat,0.751235,dog,0.25,\n"
        "y.png,,,,,bad\n"
    )
    with AnswerFile(tmp_path / "answers.jsonl", 2) as file:
        file.append([Answer("x.png", RANKED), Answer("y.png", error="bad")])
    first, second = read(tmp_path / "answers.jsonl")
    top = [{"label": "cat", "probability": 0.751235}, {"label": "dog", "probability": 0.25}]
    assert first == {"file": "x.png", "label": "cat", "probability": 0.751235, "top": top}
    assert second == {"file": "y.png", "error": "bad"}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_file_that_is_cut_anywhere_is_resumed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"answers{suffix}"
    answers = [Answer(name, RANKED) for name in ("a.png", 'two\n"lines".png', "c.png")]
    with AnswerFile(path, 2) as file:
        file.append(answers)
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        with AnswerFile(path, 2) as file:
            finished = len(file.finished)
            file.append(answers[finished:])
        assert path.read_bytes() == whole, length
    assert finished == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("answers.txt", "", "must end in .csv or .jsonl"),
        ("answers.csv", "name;price\n1;2\n", "has the columns name;price"),
        ("answers.csv", "a note", "has the columns a note"),
        (
            "answers.csv",
            "file,label,probability,error\nx.png,cat,0.5,\n",
            "give the same options as",
        ),
        ("answers.csv", "file,label,probability,label_2,probability_2,error\nx\n", "row 2 has 1 c"),
        ("answers.jsonl", "a note", "does not hold predictions"),
        ("answers.jsonl", '{"name": 1}', "does not hold predictions"),
        ("answers.jsonl", '{"name": 1}\n', "line 1 is not a prediction"),
        ("answers.jsonl", '{"file": "x", "top": [1]}\n', "line 1 has 1 labels"),
        (
            "answers.jsonl",
            '{"file": "x", "unknown": true, "top": [1, 2]}\n',
            "line 1 was written with a threshold; choose another file",
        ),
    ],
)
def test_other_files_stay_as_they_are(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        AnswerFile(path, 2)
    assert path.read_text() == content


@pytest.fixture
def photos(finished_run: Run, tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "bad.png").write_bytes(b"no image")
    return folder


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_the_command_writes_and_resumes(
    finished_run: Run,
    photos: Path,
    suffix: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = photos.parent / f"answers{suffix}"
    command = ["predict", str(finished_run.path), str(photos), "--to", str(path), "--top-k", "2"]
    assert run(app, command, "keras-cnns") == 3  # because of the bad one
    out, err = capsys.readouterr()
    assert out == f"{path}: 3 of 4 files predicted\n"
    assert err == f"{path}: 1 could not be read; see `error` in their rows\n"
    rows, content = read(path), path.read_bytes()
    assert [row["file"] for row in rows] == [
        *(str(photos / f"{number}.png") for number in range(3)),
        str(photos / "bad.png"),
    ]
    expected = predict(finished_run, [photos / f"{number}.png" for number in range(3)], top_k=2)
    for row, ((label, probability), _) in zip(rows, expected, strict=False):
        assert row["label"] == label
        assert float(row["probability"]) == pytest.approx(probability, abs=1e-6)
    (photos / "0.png").unlink()  # it would be an error if it were read again
    path.write_bytes(content[:-5])
    assert run(app, [*command, str(photos / "0.png")], "keras-cnns") == 3
    assert "3 of 4 files have a row already" in capsys.readouterr().out
    assert path.read_bytes() == content
    # Nothing is left to predict: the model is not even loaded.
    monkeypatch.setattr(Run, "load_model", lambda _: pytest.fail("loaded"))
    assert run(app, command, "keras-cnns") == 3
    assert path.read_bytes() == content
    assert run(app, [*command[:2], str(photos / "1.png"), *command[3:]], "keras-cnns") == 0


def test_parquet_is_written_from_json_lines(
    finished_run: Run,
    photos: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = photos.parent / "answers.parquet"
    (photos / "bad.png").rename(photos / os.fsdecode(b"b\xe4d.png"))
    command = ["predict", str(finished_run.path), str(photos), "--to", str(path), "--top-k", "2"]
    assert run(app, command, "keras-cnns") == 3
    rows = parquet.read_table(path).to_pylist()
    expected = read(path.with_suffix(".jsonl"))
    assert [row["label"] for row in rows] == [row.get("label") for row in expected]
    assert [row["top"] for row in rows] == [row.get("top") for row in expected]
    assert rows[-1]["file"] == f"{photos}/b\\xe4d.png"
    assert rows[-1]["error"] == "not a JPEG, PNG, WebP, BMP or GIF image"
    monkeypatch.setattr("keras_cnns.commands.predict.find_spec", lambda name: None)
    assert run(app, command, "keras-cnns") == 2
    assert "needs the package pyarrow: pip install 'keras-cnns[parquet]'" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_below_a_threshold_an_image_is_unknown(
    finished_run: Run, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, digit in enumerate(load_digits().images[:12]):
        Image.fromarray((digit * 15).astype(np.uint8)).save(tmp_path / f"{number:02}.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    files = sorted(tmp_path.glob("??.png"))
    best = [ranked[0] for ranked in predict(finished_run, files, top_k=1)]
    threshold = sorted(probability for _, probability in best)[6]
    unknown = [probability < threshold for _, probability in best]
    assert 0 < sum(unknown) <= 6
    path = tmp_path / f"answers{suffix}"
    command = ["predict", str(finished_run.path), str(tmp_path), "--top-k", "2"]
    command += ["--min-probability", repr(threshold)]
    for _ in range(2):  # the second command resumes
        assert run(app, [*command, "--to", str(path)], "keras-cnns") == 3
    if suffix == ".parquet":
        rows = pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()
        for row, line in zip(rows, read(path.with_suffix(".jsonl")), strict=True):
            assert row == dict.fromkeys(row) | line
    else:
        rows = read(path)
    for row, is_unknown, (label, probability) in zip(rows, unknown, best, strict=False):
        assert row["unknown"] == (str(is_unknown).lower() if suffix == ".csv" else is_unknown)
        assert (row["label"] or None) == (None if is_unknown else label)
        assert float(row["probability"]) == pytest.approx(probability, abs=1e-6)
    assert rows[-1]["error"]
    assert rows[-1].get("unknown") in ("", None)
    capsys.readouterr()
    assert run(app, command, "keras-cnns") == 3
    assert capsys.readouterr().out.count(": unknown (") == sum(unknown)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--min-probability", "1.5"], "should be less than or equal to 1"),
        (["--min-probability", "nan"], "should be less than or equal to 1"),
        (
            ["--min-accuracy", "0.97"],
            "has no threshold for the accuracy 0.97; there are no thresholds: give",
        ),
        (["--min-accuracy", "0.9", "--min-probability", "0.9"], "not both"),
    ],
)
def test_wrong_thresholds_are_wrong_usage(
    finished_run: Run,
    photos: Path,
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(app, ["predict", str(finished_run.path), str(photos), *options], "keras-cnns") == 2
    assert message in capsys.readouterr().err


def test_an_accuracy_can_need_no_threshold(
    finished_run: Run, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ignored = shutil.ignore_patterns("checkpoints", "tensorboard")
    copy = shutil.copytree(finished_run.path, tmp_path / "run", ignore=ignored)
    results = finished_run.results()
    results["confidence"]["thresholds"][0] |= {"min_accuracy": 0.9, "threshold": 0.0}
    (copy / "results.json").write_text(json.dumps(results))
    run(app, ["predict", str(copy), str(photos), "--min-accuracy", "0.9"], "keras-cnns")
    output = capsys.readouterr()
    assert "no threshold is needed for the accuracy 0.9: no image is unknown\n" in output.err
    assert "unknown" not in output.out


def test_the_command_refuses_another_file_as_wrong_usage(
    finished_run: Run, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["predict", str(finished_run.path)]
    assert run(app, [*command, str(photos), "--to", str(photos / "0.png")], "keras-cnns") == 2
    assert "must end in .csv or .jsonl" in capsys.readouterr().err
    assert run(app, [*command, str(photos / "*.gif")], "keras-cnns") == 2
    assert "no file matches" in capsys.readouterr().err


def test_good_files_are_printed_beside_a_bad_one(
    finished_run: Run, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(app, ["predict", str(finished_run.path), str(photos)], "keras-cnns") == 3
    out, err = capsys.readouterr()
    assert out.count(".png: ") == 3
    assert err == f"{photos / 'bad.png'}: not a JPEG, PNG, WebP, BMP or GIF image\n"
