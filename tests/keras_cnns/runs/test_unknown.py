"""Scores of known and unknown images: against their definitions, and by the command."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_cnns.cli import app, run
from keras_cnns.report import write_report
from keras_cnns.runs.evaluation import predict_split
from keras_cnns.runs.unknown import scores_of, separate
from keras_cnns.training import Run, open_run


def test_the_scores_are_those_of_the_papers() -> None:
    logits = np.array([[2.0, 1.0, -1.0], [0.0, 0.0, 0.0], [800.0, 0.0, 0.0]], np.float32)
    exponentials = np.exp(logits[:2].astype(float))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    found = scores_of(logits, np.vstack([probabilities, [1, 0, 0]]))
    np.testing.assert_allclose(found.probability, [*probabilities.max(axis=1), 1])
    # Liu et al. 2020, equation 4, with the sign changed, at temperature 1.
    np.testing.assert_allclose(found.energy, [*np.log(exponentials.sum(axis=1)), 800])


def test_the_separation_is_that_of_its_definition() -> None:
    generator = np.random.default_rng(0)
    known, unknown = generator.normal(2, 1, 400).round(1), generator.normal(0, 1, 300).round(1)
    found = separate(known, unknown)
    pairs = (known[:, None] > unknown) + 0.5 * (known[:, None] == unknown)
    assert found.auroc == pytest.approx(pairs.mean())
    threshold = max(each for each in known if (known >= each).mean() >= 0.95)
    assert found.unknown_accepted == pytest.approx((unknown >= threshold).mean())
    assert separate(np.array([1.0, 2.0]), np.array([0.0])).unknown_accepted == 0
    assert separate(np.array([1.0, 2.0]), np.array([3.0])).auroc == 0


@pytest.fixture
def copied(finished_run: Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run.path, tmp_path / "quick"))


def write_idx(folder: Path) -> None:
    folder.mkdir()
    for split, count in (("train", 40), ("t10k", 20)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 9, 9), np.uint8)
        header = (0x803).to_bytes(4) + b"".join(size.to_bytes(4) for size in pixels.shape)
        labels = (0x801).to_bytes(4) + count.to_bytes(4) + bytes(i % 2 for i in range(count))
        for kind, content in (("images-idx3", header + pixels.tobytes()), ("labels-idx1", labels)):
            (folder / f"{split}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))


@pytest.mark.parametrize("source", ["folder", "idx"])
def test_the_command_prints_and_writes_what_the_report_shows(
    copied: Path, tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown, count = str(tmp_path / source), 20
    if source == "folder":
        (tmp_path / "folder" / "deep").mkdir(parents=True)
        for number in range(count):
            pixels = np.random.default_rng(number).integers(0, 256, (40, 30, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "folder" / "deep" / f"{number}.png")
        (tmp_path / "folder" / "bad.png").write_bytes(b"no image")
    else:
        write_idx(tmp_path / "idx")
    assert run(app, ["evaluate", str(copied), "--unknown", unknown], "keras-cnns") == 0
    out, err = capsys.readouterr()
    path = tmp_path / "folder" / "bad.png"
    bad = f"files that cannot be read and are not counted: {path} (not a JPEG"
    assert (bad in err) == (source == "folder")
    assert f"{copied}: 32 known images (test[:32]), {count:,} unknown images ({unknown})" in out
    found = json.loads((copied / "unknown.json").read_text())
    for name, score in (("highest probability", "probability"), ("energy", "energy")):
        assert 0 <= found[score]["auroc"] <= 1
        assert f"{name} " in out
        assert f"{found[score]['auroc']:.4f}" in out
    assert sum(found["known_histogram"]) == pytest.approx(1)
    assert sum(found["unknown_histogram"]) == pytest.approx(1)
    # The known images and their probabilities are those of the evaluation.
    confidences = predict_split(open_run(copied)).confidences
    for row in found["thresholds"]:
        assert row["known"] == (confidences >= row["threshold"]).mean()
    if source == "folder":
        html = write_report(copied).read_text("utf-8")
        assert ">Unknown objects</h2>" in html
        assert f"{found['energy']['auroc']:.4f}" in html
        assert "Highest probability of known and unknown images" in html


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--unknown", "absent/folder"], "there is no folder absent/folder"),
        (["--unknown", "bad/x.png"], "is not a folder and not the name of a data set"),
        (["--unknown", ""], "is not a folder and not the name of a data set"),
        (["--unknown", "digitz"], "there is no data set 'digitz'"),
        (["--unknown", "empty"], "there is no image in the folder empty"),
        (["--unknown", "bad"], "no image can be read"),
        (["empty", "--unknown", "bad"], "the known images are those of a split"),
        (["--split", "other", "--unknown", "bad"], "has no split 'other'"),
    ],
)
def test_wrong_arguments_are_wrong_usage(
    finished_run: Run,
    tmp_path: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "bad"):
        (tmp_path / name).mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"no image")
    assert run(app, ["evaluate", str(finished_run.path), *arguments], "keras-cnns") == 2
    assert message in capsys.readouterr().err
    assert not (finished_run.path / "unknown.json").exists()
