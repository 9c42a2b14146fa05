"""Layouts and problems of folders: `data check` and `train` have the same findings."""

import hashlib
import io
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from keras_cnns.cli import app, run
from keras_cnns.data import Splits, read_labels
from keras_cnns.data.check import check_folder
from keras_cnns.data.sources.folder import FolderError
from keras_cnns.data.sources.folder.files import scan_folder
from keras_cnns.data.sources.folder.image_file import ImageFile
from keras_cnns.data.sources.folder.splits import assign_splits
from keras_cnns.recipes import DataConfig

SPLITS = ("train", "validation", "test")
CAFE = "café"


def picture(seed: int, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def fill(root: Path, counts: dict[str, int]) -> Path:
    """Write the given number of images into each folder; no two images are equal."""
    seed = 0
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            seed += 1
            (root / folder / f"{number}.png").write_bytes(picture(seed))
    return root


def config_of(root: Path, *, skip_bad: bool = False) -> DataConfig:
    grey = (128.0,) * 3
    return DataConfig("folder", 4, 4, 3, grey, grey, path=str(root), skip_bad=skip_bad)


def open_all(root: Path, *, skip_bad: bool = False) -> dict[str, int]:
    """Do what `train` does before the first step; return the images of each split."""
    splits = Splits(config_of(root, skip_bad=skip_bad))
    splits.fingerprint()
    return {split: splits.open(split, batch_size=4).num_examples for split in SPLITS}


VEHICLES = {"bus": 60, "car": 60, "train": 60}


@pytest.mark.parametrize(
    ("counts", "labels", "splits"),
    [
        (VEHICLES, ("bus", "car", "train"), ""),
        ({"a": 60, "A": 60}, ("A", "a"), ""),  # of letters
        ({"bus/2020": 60, "train": 60, "test": 60}, ("bus", "test", "train"), ""),
        (
            {"training_set/a": 40, "training_set/b": 40, "test_set/a": 4, "test_set/b": 4},
            ("a", "b"),
            "train 80 test 8",
        ),
        (
            {"Train/a": 40, "Train/b": 40, "VALID/a": 3, "VALID/b": 3, "TestSet/a": 2},
            ("a", "b"),
            "train 80 validation 6 test 2",
        ),
        (
            {"train data/a": 9, "train data/b": 9, "validation-images/a": 3, "testing/b": 2},
            ("a", "b"),
            "train 18 validation 3 test 2",
        ),
    ],
)
def test_split_folders_are_recognised_and_classes_are_not(
    counts: dict[str, int], labels: tuple[str, ...], splits: str, tmp_path: Path
) -> None:
    fill(tmp_path, counts)
    assert read_labels(config_of(tmp_path)) == labels
    assert not check_folder(tmp_path).has_errors
    sizes = open_all(tmp_path)
    words = splits.split()
    for split, size in zip(words[::2], words[1::2], strict=True):
        if split != "train" or "validation" in words:
            assert sizes[split] == int(size)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"train/a": 2, "train/b": 2, "extra": 1}, "has split folders (train), and beside them"),
        ({"train": 4, "test": 4}, "has only folders that are named like splits (test, train)"),
        (
            {"test_set/a": 4, "val/a": 4},
            "the split folders test_set, val, but no split folder named train",
        ),
        (
            {"train/a": 4, "val/a": 4, "valid/a": 4},
            "several folders for one split (train, val, valid); keep one of them",
        ),
        ({".": 3}, "it needs one for each class (3 images lie outside of class folders)"),
    ],
)
def test_unclear_layouts_are_asked_about(
    counts: dict[str, int], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path, counts)
    with pytest.raises(ValueError, match=re.escape(message)) as trained:
        open_all(tmp_path)
    assert run(app, ["data", "check", str(tmp_path)], "keras-cnns") == 2
    assert str(trained.value) in capsys.readouterr().err


PROBLEMS: dict[str, tuple[dict[str, int], tuple[str, ...]]] = {
    "case": (
        {"train/Cat": 9, "train/dog": 9, "val/cat": 3, "val/dog": 3, "test/dog": 3},
        ("'Cat' in train and 'cat' in validation: give them one name",),
    ),
    "unicode": (
        {
            f"train/{unicodedata.normalize('NFC', CAFE)}": 9,
            "train/dog": 9,
            f"val/{unicodedata.normalize('NFD', CAFE)}": 3,
            "test/dog": 3,
        },
        (r"'cafe\u0301' in validation and 'caf\xe9' in train: give them one name",),
    ),
    "class without training images": (
        {"train/a": 9, "train/b": 9, "val/a": 3, "val/c": 3, "test/a": 1},
        ("classes without training images (1): c",),
    ),
    "too few images": (
        {"a": 2, "b": 9},
        (
            "a: 2 different images; at least 3 are needed, one for each split (or put the images "
            "into split folders)",
        ),
    ),
    "one class": ({"a": 9}, ("there is only the class 'a'",)),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_train_refuses_what_check_refuses_with_the_same_words(problem: str, tmp_path: Path) -> None:
    counts, parts = PROBLEMS[problem]
    fill(tmp_path, counts)
    with pytest.raises(FolderError) as error:
        open_all(tmp_path)
    for part in parts:
        assert part in str(error.value)
    result = CliRunner().invoke(app, ["data", "check", str(tmp_path)])
    assert result.exit_code == 1
    lines = [line.strip() for line in result.output.splitlines()]
    found = [each for each in check_folder(tmp_path).findings if each.is_error and each.lines]
    assert all(line in lines for finding in found for line in finding.lines)
    assert found[0].title in str(error.value)
    assert all(line in str(error.value) for line in found[0].lines)


@pytest.mark.parametrize("each", [3, 4, 5, 8, 15])
@pytest.mark.parametrize("seed", range(3))
def test_a_small_folder_has_every_class_in_every_split(
    each: int, seed: int, tmp_path: Path
) -> None:
    for label in "ab":
        (tmp_path / label).mkdir()
        for number in range(each):
            content = picture(1000 * seed + 100 * ord(label) + number)
            (tmp_path / label / f"{number}.png").write_bytes(content)
            (tmp_path / label / f"copy {number}.png").write_bytes(content)
    files = [file for file in scan_folder(tmp_path).files if "copy" not in file.path.name]
    splits = assign_splits(files, SPLITS)
    assert {(split, file.label) for split, own in splits.items() for file in own} == {
        (split, label) for split in SPLITS for label in "ab"
    }
    assert splits == assign_splits(files, SPLITS)
    if each <= 7:  # with the copies still a small folder
        files = list(scan_folder(tmp_path).files)
        splits = assign_splits(files, SPLITS)
        digests = [{file.digest for file in own} for own in splits.values()]
        assert sum(map(len, digests)) == 2 * each
        assert min(map(len, digests)) >= 2


@pytest.mark.parametrize(
    ("each", "validation", "test"),
    [
        (
            60,
            "a50 a51 a56 b10 b17 b21 b30 b33 b34 b35",
            "a2 a7 a9 a13 a18 a20 a34 a35 a45 a47 b6 b14 b29 b38 b50 b51",
        ),
        (16, "b10", "a2 a7 a9 a13 b6 b14"),
    ],
)
def test_the_splits_of_larger_folders_stay_as_they_are(
    each: int, validation: str, test: str
) -> None:
    """Pinned as version 0.1 had them: runs on them have to stay comparable."""
    files = [
        ImageFile(Path(label, name), label, None, hashlib.sha256(name.encode()).hexdigest())
        for label in "ab"
        for name in (f"{label}{number}" for number in range(each))
    ]
    splits = assign_splits(files, SPLITS)
    assert " ".join(file.path.name for file in splits["validation"]) == validation
    assert " ".join(file.path.name for file in splits["test"]) == test


def test_other_files_are_listed_and_do_not_stop_a_training(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 60, "b": 60})
    (tmp_path / "a" / "notizen.txt").write_text("Hund")
    (tmp_path / "a" / "Thumbs.db").write_bytes(bytes(100))
    (tmp_path / "a" / ".DS_Store").write_bytes(bytes(100))
    (tmp_path / "a" / "._1.png").write_bytes(bytes(100))
    with (tmp_path / "a" / "clip.mov").open("wb") as video:
        video.truncate(2**35)  # which no memory could hold
    (tmp_path / "README").write_text("photos")
    (tmp_path / "0.png").write_bytes(picture(-1 % 2**32))
    (tmp_path / "__MACOSX" / "a").mkdir(parents=True)
    before = open_all(tmp_path)
    assert sum(before.values()) == 120
    result = CliRunner().invoke(app, ["data", "check", str(tmp_path)])
    assert result.exit_code == 0
    found = {each.title: each.lines for each in check_folder(tmp_path).findings if each.lines}
    assert found == {
        "images outside of the class folders, which are not used": ("0.png",),
        "other files, which are ignored": (
            "README",
            "a/.DS_Store",
            "a/._1.png",
            "a/Thumbs.db",
            "a/clip.mov",
            "a/notizen.txt",
        ),
    }


def test_a_file_that_is_far_too_large_is_named(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 60, "b": 60})
    with (tmp_path / "a" / "photo.jpg").open("wb") as file:
        file.truncate(2**35)
    with pytest.raises(FolderError, match=r"photo.jpg: it has 34,360 MB; an image file can have"):
        open_all(tmp_path)


def test_formats_to_convert_are_refused_with_a_command(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 60, "b": 60})
    Image.new("RGB", (4, 4)).save(tmp_path / "a" / "scan.tif")
    (tmp_path / "a" / "photo.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    (tmp_path / "b" / "photo.avif").write_bytes(b"\0\0\0\x18ftypavif" + bytes(100))
    (tmp_path / "b" / "named.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    with pytest.raises(FolderError) as error:
        open_all(tmp_path)
    command = (
        f"convert the files with ImageMagick: `find {tmp_path} \\( -name '*.HEIC' "
        "-o -name '*.avif' -o -name '*.tif' -o -name named.jpg \\) "
        "-exec magick mogrify -format jpg {} +`"
    )
    result = CliRunner().invoke(app, ["data", "check", str(tmp_path)])
    for text in (str(error.value), result.output):
        assert command in text
        for name in ("a/photo.HEIC: HEIC", "a/scan.tif: TIFF", "b/photo.avif: AVIF"):
            assert name in text
    assert sum(open_all(tmp_path, skip_bad=True).values()) == 120


def test_a_relative_folder_that_is_missing_says_relative_to_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    message = f"there is no folder {tmp_path}/photos; .* working directory, here {tmp_path}"
    with pytest.raises(ValueError, match=message):
        open_all(Path("photos"))


def test_check_ends_with_the_command_that_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fill(tmp_path, {"my photos/a": 4, "my photos/b": 1})

    def check() -> list[str]:
        return CliRunner().invoke(app, ["data", "check", "my photos"]).output.splitlines()

    lines = check()
    assert lines[-1].startswith("  ") or lines[-1] == ""  # class b has too few images
    fill(tmp_path, {"my photos/a": 40, "my photos/b": 9})
    command = "keras-cnns fit 'my photos' --run 'runs/my photos'"
    lines = check()
    assert lines[-2:] == ["no errors: training on this folder is possible", f"train: {command}"]
    hint = "hint: these classes have fewer than a quarter of the images of a: b; add images of"
    assert any(line.startswith(hint) for line in lines)
    (tmp_path / "my photos" / "a" / "cut.png").write_bytes(b"")
    assert check()[-1] == f"train without the files that have errors: {command}"
