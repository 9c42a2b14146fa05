"""The command: what it writes, prints and returns."""

import asyncio
import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from keras_cnns_serve.cli import main
from keras_cnns_serve.core.dataplane import Dataplane
from keras_cnns_serve.core.prediction import Target
from keras_cnns_serve.scoring import job
from keras_cnns_serve.scoring.pipeline import Scorer
from keras_cnns_serve.scoring.shards import open_version
from tests.serve.conftest import grey, write_version

from .conftest import write_list

SCORE = (sys.executable, "-m", "keras_cnns_serve.cli", "score")
Rows = list[dict[str, Any]]


def score(model: Path, *arguments: object) -> int:
    return main(["score", str(model), *map(str, arguments)])


def rows_in(directory: Path) -> Rows:
    parts = sorted(directory.glob("part-*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_text("utf-8").splitlines()]


def summary_of(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text("utf-8")))


def test_a_folder_into_shards(
    model: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score(model, "photos", "--to", "scores", "--shard-size", 4, "--batch-size", 3) == 0
    sizes = [len(part.read_text().splitlines()) for part in sorted(photos.glob("scores/part-*"))]
    assert sizes == [4, 4, 2]
    rows = rows_in(photos / "scores")
    assert [row["file"] for row in rows] == [f"photos/{level}.png" for level in range(10)]
    assert [row["label"] for row in rows] == [f"grey-{level}" for level in range(10)]
    assert all(set(row) == {"file", "label", "probability"} for row in rows)
    summary = summary_of(photos / "scores" / "summary.json")
    assert (
        summary.items()
        >= {
            **{"model": "grey", "version": 1, "file": "model.onnx", "engine": "onnxruntime"},
            **{
                "precision": "float32",
                "inputs": ["photos"],
                "top_k": None,
                "images": 10,
                "failed": 0,
            },
            **{"labels": {f"grey-{level}": 1 for level in range(10)}, "shards": 3},
        }.items()
    )
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("10 images; scored in ")
    assert last.endswith(f" with grey/1; the result is in scores{os.sep}")


def test_an_unreadable_image_is_a_row_with_an_error(model: Path, photos: Path) -> None:
    (photos / "photos" / "55.png").write_bytes(b"no image")
    assert score(model, "photos", "photos/absent.png*", "--to", "a") == 1
    assert score(model, "photos", "--to", "scores") == 3
    rows = rows_in(photos / "scores")
    assert len(rows) == 11
    (failed,) = [row for row in rows if "error" in row]
    assert failed.items() >= {"file": "photos/55.png", "label": None, "probability": None}.items()
    assert failed["error"].startswith("these 8 bytes are not an image")
    assert summary_of(photos / "scores" / "summary.json")["failed"] == 1


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_single_file(model: Path, photos: Path, suffix: str) -> None:
    (photos / "photos" / "55.png").write_bytes(b"no image")
    path = photos / f"answers.{suffix}"
    for _ in range(2):  # the second one replaces the file
        assert score(model, "photos", "--to", path, "--top-k", 2, "--shard-size", 3) == 3
    lines = path.read_text("utf-8").splitlines()
    if suffix == "csv":
        rows: list[dict[str, Any]] = list(csv.DictReader(lines))
        assert list(rows[0]) == [
            *("file", "label", "probability", "label_2", "probability_2", "error"),
        ]
        assert (rows[0]["label_2"], rows[6]["label"]) == ("grey-1", "")
        assert 0 < float(rows[0]["probability_2"]) < float(rows[0]["probability"]) < 1
    else:
        rows = [json.loads(line) for line in lines]
        assert [each["label"] for each in rows[0]["top_k"]] == ["grey-0", "grey-1"]
        assert rows[0]["top_k"][0]["probability"] == rows[0]["probability"]
        assert rows[6]["top_k"] == []
    assert len(rows) == 11
    assert rows[6]["error"].startswith("these 8 bytes are not an image")
    assert summary_of(photos / f"{path.name}.summary.json")["images"] == 11
    assert {each.name for each in photos.iterdir()} == {
        *("photos", path.name, f"{path.name}.summary.json"),
    }


@pytest.mark.parametrize("arguments", [(), ("--top-k", 2)])
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_below_a_threshold_an_image_is_unknown(
    sure: Path,
    photos: Path,
    suffix: str,
    arguments: tuple[object, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (photos / "photos" / "55.png").write_bytes(b"no image")
    assert score(sure, "photos", "--to", "without") == 3
    labels = {
        row["file"]: row["label"] if (row["probability"] or 0) >= 0.7 else None
        for row in rows_in(photos / "without")
    }
    path = photos / f"answers.{suffix}"
    for threshold in (("--min-probability", 0.7), ("--min-accuracy", 0.98)):
        assert score(sure, "photos", "--to", path, *threshold, *arguments) == 3
        lines = path.read_text("utf-8").splitlines()
        rows = [*csv.DictReader(lines)] if suffix == "csv" else [json.loads(line) for line in lines]
        assert {row["file"]: row["label"] or None for row in rows} == labels
        for row in rows:
            if row.get("error"):
                assert row.get("unknown", "") == ""
            else:
                unknown = labels[row["file"]] is None
                assert row["unknown"] == (str(unknown).lower() if suffix == "csv" else unknown)
                assert (float(row["probability"]) < 0.7) == unknown
        summary = summary_of(photos / f"{path.name}.summary.json")
        known = sum(label is not None for label in labels.values())
        assert (summary["images"], summary["failed"]) == (11, 1)
        assert (summary["unknown"], summary["min_probability"]) == (10 - known, pytest.approx(0.7))
        assert sum(summary["labels"].values()) == known > 0
        assert f"11 images, {10 - known} unknown, 1 failed; scored in " in capsys.readouterr().err


@pytest.mark.parametrize("to", ["scores", "answers.csv"])
def test_unknown_images_are_counted_in_shards_of_an_earlier_run(
    sure: Path, photos: Path, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("photos", "--to", to, "--min-probability", 0.7, "--shard-size", 2)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(job, "_summary", interrupt)
        assert score(sure, *command) == 130
    assert score(sure, *command) == 0
    name = "scores/summary.json" if to == "scores" else f"{to}.summary.json"
    summary = summary_of(photos / name)
    assert summary["images_of_earlier_runs"] == 10
    assert summary["unknown"] + sum(summary["labels"].values()) == 10
    assert summary["unknown"] > 0


def test_an_unknown_image_is_printed_with_its_most_probable_labels(
    sure: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score(sure, "photos/0.png", "photos/4.png", "--min-accuracy", 0.98) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("photos/0.png: grey-0 8")
    assert second.startswith("photos/4.png: unknown (grey-4 ")


def test_the_answers_are_those_of_the_server(
    repository: Path, dataplane: Dataplane, photos: Path
) -> None:
    gradient = Image.linear_gradient("L")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned
    for name, size in {"a.jpg": (90, 70), "b.png": (8, 8), "c.webp": (61, 300)}.items():
        gradient.resize(size).convert("RGB").save(photos / "photos" / name, exif=exif)
    names = sorted(f"photos/{path.name}" for path in (photos / "photos").iterdir())
    contents = [Path(name).read_bytes() for name in names]
    served = asyncio.run(dataplane.classify_images(Target("two"), contents, top_k=10))
    assert score(repository / "two", "photos", "--top-k", 10, "--to", "scores") == 0
    for row, labels in zip(rows_in(photos / "scores"), served, strict=True):
        assert [each["label"] for each in row["top_k"]] == [each.label for each in labels]
        assert [each["probability"] for each in row["top_k"]] == pytest.approx(
            [each.probability for each in labels], rel=1e-6
        )


def test_without_to_the_labels_are_printed(
    model: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score(model, "photos/0.png", "photos/9.png") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition(" ")[0] for line in lines] == [
        *("photos/0.png: grey-0", "photos/9.png: grey-9"),
    ]
    (photos / "photos" / "1.png").write_bytes(b"")
    assert score(model, "photos/1.png", "--top-k", 3) == 3
    assert capsys.readouterr().err == "photos/1.png: there is no image: the body has 0 bytes\n"


def test_a_link_to_a_folder_and_a_full_disk_are_reported(
    model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "photos" / "loop").symlink_to(photos)
    with contextlib.suppress(OSError), Path("/dev/full").open("w") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert score(model, "photos") == 1
    assert capsys.readouterr().err == (
        "1 link to a folder was not followed: photos/loop\n"
        "keras-cnns-serve score: cannot write or read: No space left on device\n"
    )


def test_a_result_of_another_working_directory_is_not_continued(
    model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Relative names would refer to other images."""
    result = photos / "scores"
    assert score(model, "photos", "--to", result) == 0
    (photos / "other" / "photos").mkdir(parents=True)
    monkeypatch.chdir(photos / "other")
    assert score(model, "photos", "--to", result) == 1
    assert f"its directory is '{photos}', not '{photos}/other'; give" in capsys.readouterr().err
    plan = json.loads((result / "plan.json").read_text())
    del plan["directory"]  # a plan of an earlier version
    (result / "plan.json").write_text(json.dumps(plan))
    assert score(model, "photos", "--to", result) == 0


def test_an_error_in_a_decoder_is_the_row_of_its_image(
    model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = Scorer._decode

    def fail(self: Scorer, content: bytes) -> Any:
        if content == (photos / "photos" / "5.png").read_bytes():
            raise IndexError("list index out of range")
        return decode(self, content)

    monkeypatch.setattr(Scorer, "_decode", fail)
    assert score(model, "photos", "--to", "scores") == 3
    rows = rows_in(photos / "scores")
    assert [row.get("error") for row in rows if "error" in row] == [
        "the image cannot be decoded: list index out of range"
    ]
    assert len(rows) == 10


def test_a_complete_result_is_not_computed_again(
    model: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert score(model, "photos", "--to", "scores") == 0
    assert "scores is complete: 10 images. Delete it, or give another --to" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("photos", "--to", "scores", "--top-k", 2), "its top_k is None, not 2; give another --to"),
        (("photos/1.png", "--to", "scores"), r"its images is \['photos'\], not \['photos/1.png'\]"),
        (("photos", "--to", "photos"), "--to photos holds other files, such as"),
        (("photos", "--to", "photos/1.png"), "--to photos/1.png cannot be written: File exists"),
        (("photos", "--to", "photos/1.png/x.csv"), "cannot be written: Not a directory"),
        (("absent", "--to", "new"), "absent does not exist; give image files"),
        (
            ("photos", "--to", "scores", "--min-probability", 0.5),
            "its min_probability is None, not 0.5; give another --to",
        ),
        (("photos", "--min-accuracy", 0.98), "grey/1 has no threshold for the accuracy 0.98; its "),
        (
            ("photos", "--min-accuracy", 0.98, "--min-probability", 0.9),
            "give min_probability or min_accuracy, not both",
        ),
        (("photos", "--version", 2), "grey has no version 2; it has 1"),
        (("photos", "--engine", "openvino"), "grey/1 is refused: it has no format for --engine"),
    ],
)
def test_a_failure_is_a_line_and_status_1(
    model: Path,
    photos: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[object, ...],
    message: str,
) -> None:
    assert score(model, "photos", "--to", "scores") == 0
    capsys.readouterr()
    assert score(model, *arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("keras-cnns-serve score: ")
    assert error.count("\n") == 1
    assert message.replace("\\", "") in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("models", "the following arguments are required: IMAGES"),
        ("models photos --to a.parquet", "--to a.parquet: .parquet is not supported; give a file"),
        ("models photos --top-k 0", "argument --top-k: '0' is not an integer from 1 to 100000"),
    ],
)
def test_wrong_usage_is_status_2(
    capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    assert main(["score", *arguments.split()]) == 2
    assert message in capsys.readouterr().err


def test_the_model_is_a_directory_of_versions_or_a_version(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "models"
    for number in ("1", "10", "9"):
        write_version(root / "grey" / number)
    versions = {
        root / "grey": 10,
        root / "grey" / "9": 9,
        root: 10,  # a repository with one model
    }
    for path, version in versions.items():
        assert open_version(path).version == version
    assert open_version(root / "grey", 1).version == 1
    write_version(root / "other" / "1")
    for path, message in {
        root: f"{root} has 2 models; give the directory of one, such as {root / 'grey'}",
        photos / "photos": "has 0 models; give the directory of one, such as",
        photos / "absent": "absent does not exist; give the directory of the models",
    }.items():
        assert score(path, "photos") == 1
        assert message in capsys.readouterr().err
    (root / "grey" / "10" / "labels.txt").write_text("changed")
    assert score(root / "grey", "photos") == 1  # never an older version, silently
    assert "grey/10 is refused: labels.txt has" in capsys.readouterr().err


def test_a_killed_run_continues_without_loss_or_duplicates(
    model: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"photos/{number * 7 % 10}.png" for number in range(6_000)]
    images = write_list(photos / "list.csv", names)
    options = ("--to", "scores", "--shard-size", "100", "--batch-size", "7")
    with subprocess.Popen([*SCORE, model, images, *options], stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not (photos / "scores" / "part-00002.jsonl").exists():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    finished = {part: part.stat().st_mtime_ns for part in photos.glob("scores/part-*")}
    assert 3 <= len(finished) < 60
    assert not (photos / "scores" / "summary.json").exists()

    assert score(model, images, *options) == 0
    assert {part: part.stat().st_mtime_ns for part in finished} == finished
    rows = rows_in(photos / "scores")
    assert [row["file"] for row in rows] == names
    assert all(row["label"] == f"grey-{row['file'][7]}" for row in rows)
    summary = summary_of(photos / "scores" / "summary.json")
    assert summary["images"] == 6_000
    assert summary["images_of_earlier_runs"] == 100 * len(finished)
    assert sorted(summary["labels"].values()) == [600] * 10
    assert f"continuing: {100 * len(finished):,} of 6,000 images" in capsys.readouterr().err
    assert not list(photos.glob("scores/.*"))


def test_shards_that_were_joined_already_are_no_part_of_another_run(
    model: Path, photos: Path
) -> None:
    """A run can be killed after its single file is complete, while its shards are removed."""
    options = ("--to", "answers.jsonl", "--shard-size", 4)
    assert score(model, "photos", *options) == 0
    expected = (photos / "answers.jsonl").read_bytes()
    partial = photos / "answers.jsonl.partial"
    partial.mkdir()
    rows = [{"file": "old.png", "label": "grey-9", "probability": 1.0}] * 4
    (partial / "part-00000.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert score(model, "photos", *options) == 0
    assert (photos / "answers.jsonl").read_bytes() == expected


def test_other_files_in_the_directory_of_a_single_file_stay(
    model: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    partial = photos / "answers.csv.partial"
    partial.mkdir()
    (partial / "mine.txt").write_text("mine")
    assert score(model, "photos", "--to", "answers.csv") == 1
    assert "holds other files, such as mine.txt" in capsys.readouterr().err
    assert (partial / "mine.txt").read_text() == "mine"


def test_a_run_that_was_killed_at_any_file_continues(model: Path, photos: Path) -> None:
    """What is left after a kill: no plan yet, a shard that is cut short, no summary."""
    options = ("photos", "--to", "scores", "--shard-size", 4)
    assert score(model, *options) == 0
    expected = rows_in(photos / "scores")
    for name in ("summary.json", "part-00001.jsonl", "plan.json", "images.jsonl"):
        (photos / "scores" / name).unlink()
        if name == "plan.json":
            for part in photos.glob("scores/part-*"):
                part.unlink()
            (photos / "scores" / "summary.json").unlink()
        elif name == "images.jsonl":
            continue
        else:
            part = photos / "scores" / "part-00000.jsonl"
            part.write_bytes(part.read_bytes()[:-20])
            (photos / "scores" / "summary.json").unlink(missing_ok=True)
        assert score(model, *options) == 0
        assert rows_in(photos / "scores") == expected


def test_two_processes_do_not_write_to_one_directory(
    model: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fcntl = pytest.importorskip("fcntl")
    (photos / "scores").mkdir()
    descriptor = os.open(photos / "scores", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert score(model, "photos", "--to", "scores") == 1
    finally:
        os.close(descriptor)
    assert "another process is writing to scores" in capsys.readouterr().err


def test_an_interruption_ends_with_status_130(model: Path, photos: Path) -> None:
    images = write_list(photos / "list.csv", ["photos/1.png"] * 100_000)
    command = [*SCORE, str(model), images, "--to", "scores", "--shard-size", "100"]
    # A shell's background job, such as CI, ignores SIGINT, and its children inherit that.
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        while not (photos / "scores" / "part-00000.jsonl").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.endswith("score: interrupted; run the same command again to continue\n")


def test_a_reader_that_has_read_enough_is_no_error(model: Path, photos: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [*SCORE, str(model), "photos"]
    ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (1, b"")


def test_names_that_are_not_text(model: Path, photos: Path) -> None:
    name = b"photos/\xff\xc3\xa4.png"
    Path(os.fsdecode(name)).write_bytes(grey(130))
    assert score(model, "photos", "--to", "scores") == 0
    assert rows_in(photos / "scores")[-1] == {
        **{"file": "photos/\\xffä.png", "label": "grey-5"},
        "probability": pytest.approx(0.46, abs=0.1),
    }
