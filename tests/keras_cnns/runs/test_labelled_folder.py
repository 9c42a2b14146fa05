"""Labelled photos from elsewhere: what is counted, and the report on class names that differ."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_cnns.cli import app, run
from keras_cnns.data import open_split
from keras_cnns.runs.evaluation import predict_split
from keras_cnns.runs.labelled_folder import evaluate_folder, match_labels
from keras_cnns.training import Run

KÄFER = unicodedata.normalize("NFC", "Käfer")
DECOMPOSED = unicodedata.normalize("NFD", "Käfer")


@pytest.mark.parametrize(
    ("known", "folder", "matched", "notes"),
    [
        (["cat", "dog"], ["cat", "dog"], {"cat": 0, "dog": 1}, []),
        (["cat", "dog"], ["dog"], {"dog": 1}, ["the folder has no images of 'cat'"]),
        (
            ["cat", "dog"],
            ["cat", "dog", "dogs"],
            {"cat": 0, "dog": 1},
            ["has no class 'dogs' (2 images; did you mean 'dog'?); these images are not counted"],
        ),
        (
            ["cat", "dog"],
            ["Cat", "dog"],
            {"Cat": 0, "dog": 1},
            [
                "the class 'Cat' differs only in case from the run's class 'cat', and counts as "
                "that class"
            ],
        ),
        (
            [KÄFER, "dog"],
            [DECOMPOSED, "dog"],
            {DECOMPOSED: 0, "dog": 1},
            [
                r"the class 'Ka\u0308fer' differs only in Unicode form from the run's class "
                r"'K\xe4fer'"
            ],
        ),
        # It is not clear which of the two is meant.
        (
            ["cat", "CAT"],
            ["Cat"],
            {},
            ["has no class 'Cat' (2 images", "no images of 'cat', 'CAT'"],
        ),
    ],
)
def test_class_names(
    known: list[str], folder: list[str], matched: dict[str, int], notes: list[str]
) -> None:
    found, said = match_labels(known, dict.fromkeys(folder, 2))
    assert found == matched
    assert len(said) == len(notes)
    for note, part in zip(said, notes, strict=True):
        assert part in note


@pytest.fixture
def photos(finished_run: Run, tmp_path: Path) -> Path:
    """The run's own test images, as PNG files in folders."""
    folder = tmp_path / "photos"
    for images, labels in open_split(finished_run.recipe.data, "test[:32]", batch_size=32):
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = folder / finished_run.labels[int(label)] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.asarray(image)[..., 0]).save(path)
    return folder


def test_the_metrics_are_those_of_the_same_images_in_a_split(
    finished_run: Run, photos: Path
) -> None:
    evaluation = evaluate_folder(finished_run, photos)
    expected = predict_split(finished_run)
    assert evaluation.predictions.accuracy == expected.accuracy
    assert evaluation.predictions.loss == pytest.approx(expected.loss, rel=1e-4)
    assert (evaluation.notes, evaluation.unreadable) == ((), ())


def test_the_command_prints_recalls_and_says_what_is_not_counted(
    finished_run: Run, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", str(finished_run.path), str(photos)]
    assert run(app, command, "keras-cnns") == 0
    out, err = capsys.readouterr()
    accuracy = finished_run.results()["test"]["accuracy"]
    assert out.startswith(f"{finished_run.path}: {photos}: accuracy {accuracy:.2%} (")
    assert "balanced accuracy" in out
    assert ", 32 images\n" in out
    assert len(out.splitlines()) == 2 + len(finished_run.labels)
    assert err == ""
    (photos / "3/bad.png").write_bytes(b"no image")
    (photos / "zero").mkdir()
    Image.new("L", (8, 8)).save(photos / "zero/1.png")
    assert run(app, command, "keras-cnns") == 3
    out, err = capsys.readouterr()
    assert ", 32 images\n" in out
    assert "note: the run has no class 'zero' (1 image" in err
    assert f"{photos / '3/bad.png'}: not a JPEG" in err


def test_the_split_has_the_same_table(
    finished_run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(app, ["evaluate", str(finished_run.path)], "keras-cnns") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(finished_run.labels)


def test_other_folders_are_refused(
    finished_run: Run, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos.parent / "cats/cat").mkdir(parents=True)
    (photos.parent / "cats/cat/1.png").write_bytes(b"no image")
    with pytest.raises(
        ValueError, match=r"no class of .*cats \('cat'\) is a class of the run \('0'"
    ):
        evaluate_folder(finished_run, photos.parent / "cats")
    (photos.parent / "cats/cat").rename(photos.parent / "cats/3")
    with pytest.raises(
        ValueError, match=r"no file of .*cats can be read; the first of them is .*1.png: not"
    ):
        evaluate_folder(finished_run, photos.parent / "cats")
    photos.rename(photos.parent / "test")
    (photos / "train").mkdir(parents=True)
    (photos.parent / "test").rename(photos / "test")
    (photos / "train/3").mkdir()
    with pytest.raises(ValueError, match="has folders for the splits test; give one"):
        evaluate_folder(finished_run, photos)
    command = ["evaluate", str(finished_run.path), str(photos), "--split", "test"]
    assert run(app, command, "keras-cnns") == 2
    assert "a directory or a split, not both" in capsys.readouterr().err
