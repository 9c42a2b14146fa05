"""Folders of images: read as they are, split by content, refused where they cannot be read."""

import errno
import io
import os
import re
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from keras_cnns.cli import app
from keras_cnns.data import Splits, fingerprint, open_split, preprocess, read_image, read_labels
from keras_cnns.data.check import check_folder
from keras_cnns.data.sources.folder import FolderError
from keras_cnns.data.sources.folder.files import scan_folder
from keras_cnns.data.sources.folder.splits import assign_splits
from keras_cnns.recipes import DataConfig, load_recipe

CLASSES = ("cat", "dog", "owl")
GENERATOR = np.random.default_rng(0)


def encoded(kind: str, size: tuple[int, int] = (40, 30), mode: str = "RGB", turn: int = 1) -> bytes:
    pixels = GENERATOR.integers(0, 256, (*size, 3)).astype(np.uint8)
    image, file = Image.fromarray(pixels).convert(mode), io.BytesIO()
    exif = image.getexif()
    exif[0x0112] = turn
    image.save(file, kind, exif=exif)
    return file.getvalue()


def fill(root: Path, each: int = 40) -> Path:
    for label in CLASSES:
        (root / label).mkdir(parents=True)
        for number in range(each):
            (root / label / f"{number:03}.png").write_bytes(encoded("PNG", (4, 4)))
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("data") / "photos")


def config_of(path: Path, size: int = 4) -> DataConfig:
    grey = (128.0,) * 3
    return DataConfig("folder", size, size, 3, grey, grey, path=str(path))


def test_every_file_is_on_one_side_with_its_copies(photos: Path, tmp_path: Path) -> None:
    config = config_of(photos)
    assert read_labels(config) == CLASSES
    sizes = {
        split: open_split(config, split, batch_size=8).num_examples
        for split in ("train", "validation", "test")
    }
    assert sum(sizes.values()) == 120
    assert 80 < sizes["train"] < 110
    splits = {
        file.digest: split
        for split, files in assign_splits(scan_folder(photos).files, ["validation", "test"]).items()
        for file in files
    }
    # Renamed, copied, and with others beside it, each file is where it was.
    other = tmp_path / "other"
    shutil.copytree(photos, other)
    for path in sorted(other.rglob("*.png"))[::2]:
        shutil.copy(path, path.with_name(f"copy of {path.name}"))
        path.rename(path.with_name(f"renamed {path.name}"))
    (other / "cat" / "new.png").write_bytes(encoded("PNG"))
    files = assign_splits(scan_folder(other).files, ["validation", "test"])
    again = [(file.digest, split) for split, members in files.items() for file in members]
    assert len(again) == 120 + 60 + 1
    assert all(splits.get(digest, split) == split for digest, split in again)
    assert fingerprint(config_of(other)) != fingerprint(config)


def test_slices_are_disjoint_and_contain_all_classes(photos: Path) -> None:
    config = config_of(photos)
    parts = []
    for spec in ("train[:50%]", "train[50%:]"):
        split = open_split(config, spec, batch_size=8)
        labels = np.concatenate([labels for _, labels in split.epoch(0)])
        assert set(labels) == set(range(len(CLASSES)))
        assert split.path_of is not None
        parts.append({split.path_of(index) for index in range(split.num_examples)})
    assert not parts[0] & parts[1]
    assert len(parts[0] | parts[1]) == open_split(config, "train", batch_size=8).num_examples


def test_split_folders_are_kept_and_what_is_missing_is_taken_from_training(
    photos: Path, tmp_path: Path
) -> None:
    shutil.copytree(photos, tmp_path / "train")
    fill(tmp_path / "val")
    (tmp_path / "README.txt").write_text("beside the folders")
    config = config_of(tmp_path)
    assert open_split(config, "validation", batch_size=8).num_examples == 120
    test = open_split(config, "test", batch_size=8).num_examples
    assert test > 0
    assert open_split(config, "train", batch_size=8).num_examples == 120 - test
    with_val = replace(config, test_split="validation")
    assert open_split(with_val, "train", batch_size=8).num_examples == 120
    (tmp_path / "extra").mkdir()
    with pytest.raises(
        ValueError, match=r"has split folders \(train, val\), and beside them extra"
    ):
        scan_folder(tmp_path)


@pytest.mark.parametrize(
    ("kind", "mode", "turn"),
    [
        ("PNG", "RGB", 1),
        ("PNG", "L", 1),
        ("PNG", "P", 1),
        ("PNG", "RGBA", 1),
        ("JPEG", "RGB", 1),
        ("JPEG", "L", 1),
        ("JPEG", "CMYK", 1),
        ("WEBP", "RGB", 1),
        ("BMP", "RGB", 1),
        ("GIF", "P", 1),
        *(("JPEG", "RGB", turn) for turn in range(2, 9)),
    ],
)
def test_training_sees_what_predict_and_the_server_see(
    kind: str, mode: str, turn: int, tmp_path: Path
) -> None:
    path = tmp_path / "all" / "image"
    for folder in (path.parent, tmp_path / "other"):
        folder.mkdir()
        (folder / path.name).write_bytes(encoded(kind, mode=mode, turn=turn))
    for channels in (1, 3):
        grey = (0.0,) * channels
        config = replace(
            config_of(tmp_path, 20),
            resize_shorter=24,
            channels=channels,
            mean=grey,
            std=(1.0,) * channels,
            validation_split="train",
            test_split="train",
        )
        images, _ = next(open_split(config, "train", batch_size=1).epoch(0).as_numpy_iterator())
        expected = preprocess(read_image(path, channels), config.preprocessing())
        np.testing.assert_allclose(images[0].astype(int), expected.numpy().astype(int), atol=1)


def test_a_file_name_that_is_no_text_is_checked_and_read(tmp_path: Path) -> None:
    root = fill(tmp_path / "train", each=1)
    odd = Path(os.fsdecode(os.fsencode(root / "cat") + b"/caf\xe9.png"))
    shutil.copy(root / "cat" / "000.png", odd)
    config = replace(config_of(tmp_path), validation_split="train", test_split="train")
    images, _ = next(open_split(config, "train", batch_size=4).epoch(0).as_numpy_iterator())
    np.testing.assert_array_equal(images[0], images[1])
    assert fingerprint(config)
    result = CliRunner().invoke(app, ["data", "check", str(tmp_path)])
    assert "unreadable" not in result.output
    assert r"train/cat/000.png = train/cat/caf\udce9.png" in result.output


@pytest.fixture
def spoilt(tmp_path: Path) -> Path:
    root = fill(tmp_path / "spoilt", each=30)
    whole = encoded("JPEG")
    (root / "cat" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "cat" / "empty.jpg").write_bytes(b"")
    (root / "dog" / "words.png").write_bytes(b"no image")
    (root / "dog" / ".hidden").write_bytes(b"left alone")
    return root


def test_unreadable_files_are_refused_or_skipped_by_name(
    spoilt: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("cat/cut.jpg", "cat/empty.jpg", "dog/words.png")
    with pytest.raises(FolderError, match=r"unreadable files \(3\): .* --skip-bad") as error:
        open_split(config_of(spoilt), "train", batch_size=8)
    assert all(name in str(error.value) for name in names)
    skipping = replace(config_of(spoilt), skip_bad=True)
    splits = Splits(skipping)
    assert splits.labels == CLASSES
    names = ("train", "validation", "test")
    assert sum(splits.open(name, batch_size=8).num_examples for name in names) == 90
    listed = capsys.readouterr().err
    assert [line for line in listed.splitlines() if line.startswith("skipped")] == [
        f"skipped {spoilt / 'cat/cut.jpg'}: damaged or cut short, though it begins like a "
        "JPEG file",
        f"skipped {spoilt / 'cat/empty.jpg'}: not a JPEG, PNG, WebP, BMP or GIF image",
        f"skipped {spoilt / 'dog/words.png'}: not a JPEG, PNG, WebP, BMP or GIF image",
    ]


def test_train_refuses_them_before_it_makes_anything(spoilt: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ["train", "--recipe", "digits-resnet20", "--run", str(run)]
    arguments += ["--set", "data.name=folder", "--set", f"data.path={spoilt}"]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, FolderError)
    assert not (run / "model.keras").exists()


def test_train_goes_on_without_them_when_it_is_told_to(spoilt: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ["train", "--recipe", "digits-resnet20", "--run", str(run), "--skip-bad"]
    values = (
        "data.name=folder",
        f"data.path={spoilt}",
        "data.train_split=train",
        "data.validation_split=validation",
        "data.test_split=test",
        "training.epochs=1",
    )
    arguments += [part for value in values for part in ("--set", value)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert result.stderr.count("skipped ") == 3
    assert f"skipped {spoilt / 'dog/words.png'}: not a JPEG" in result.stderr
    assert load_recipe(run / "config.toml").data.skip_bad
    assert "test accuracy" in result.stdout


def test_check_reports_all_that_is_wrong(spoilt: Path) -> None:
    shutil.copy(spoilt / "cat" / "000.png", spoilt / "dog" / "same.png")
    shutil.copy(spoilt / "owl" / "000.png", spoilt / "owl" / "copy.jpg")
    report = check_folder(spoilt)
    found = {finding.title: finding.lines for finding in report.findings if finding.lines}
    assert report.has_errors
    assert len(found["unreadable files"]) == 3
    assert found["the same image in different classes"] == ("cat/000.png = dog/same.png",)
    assert found["copies within a class and split"] == ("owl/000.png = owl/copy.jpg",)
    assert found["wrong extensions"] == ("owl/copy.jpg: it is PNG",)
    assert {label: sum(sides.values()) for label, sides in report.counts.items()} == {
        "cat": 30,
        "dog": 31,
        "owl": 31,
    }
    result = CliRunner().invoke(app, ["data", "check", str(spoilt)])
    assert result.exit_code == 1
    assert "cat/cut.jpg: damaged or cut short" in result.output
    assert "balance: from 30 (cat) to 31 (dog) images per class" in result.output
    assert "height: 4 to 4 pixels, median 4" in result.output


def test_a_pipe_and_a_device_are_no_images(tmp_path: Path) -> None:
    root = fill(tmp_path / "photos", each=1)
    pipe = root / "cat" / "pipe.png"
    os.mkfifo(pipe)
    # If the check opened the pipe after all, this would end its wait.
    threading.Thread(target=lambda: pipe.open("wb").close(), daemon=True).start()
    (root / "cat" / "device.png").symlink_to("/dev/null")
    found = {each.title: each.lines for each in check_folder(root).findings}
    assert found["unreadable files"] == (
        "cat/device.png: not a regular file",
        "cat/pipe.png: not a regular file",
    )


def test_links_to_folders_are_listed_and_not_followed(tmp_path: Path) -> None:
    """A class folder may be a link."""
    root = fill(tmp_path / "photos", each=1)
    (root / "cat" / "loop").symlink_to(root)
    (root / "dog").rename(tmp_path / "elsewhere")
    (root / "dog").symlink_to(tmp_path / "elsewhere")
    report = check_folder(root)
    assert report.files == 3
    found = {each.title: each.lines for each in report.findings}
    assert found["links to folders, which are not followed"] == ("cat/loop",)


def test_check_finds_copies_across_split_folders(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "train")
    (tmp_path / "test" / "cat").mkdir(parents=True)
    shutil.copy(photos / "cat" / "000.png", tmp_path / "test" / "cat" / "leak.png")
    found = {each.title: each.lines for each in check_folder(tmp_path).findings if each.lines}
    assert found == {
        "the same image in different splits": ("test/cat/leak.png = train/cat/000.png",),
        "classes without an image in a split": ("dog: none in test", "owl: none in test"),
    }
    config = config_of(tmp_path)
    with pytest.raises(FolderError, match="the same image in different splits"):
        fingerprint(config)
    # The copy for training is left out.
    splits = Splits(replace(config, skip_bad=True))
    sizes = {name: splits.open(name, batch_size=8).num_examples for name in ("train", "validation")}
    assert splits.open("test", batch_size=8).num_examples == 1
    assert sum(sizes.values()) == 119
    result = CliRunner().invoke(app, ["data", "check", str(photos)])
    assert result.exit_code == 0
    assert "no errors: training on this folder is possible" in result.output


def test_a_folder_that_cannot_be_read_is_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root, who may run the tests, can read every folder."""
    for name in ("cat", "dog", "owl"):
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8)).save(tmp_path / name / "0.png")
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "owl":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ValueError, match=r"cannot read the folder .*owl: Permission denied"):
        scan_folder(tmp_path)


def test_folders_of_the_system_are_no_classes(tmp_path: Path) -> None:
    for name in ("cat", "dog", "lost+found", "System Volume Information", "__MACOSX"):
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8)).save(tmp_path / name / "0.png")
    assert {file.label for file in scan_folder(tmp_path).files} == {"cat", "dog"}


def test_folders_that_are_none_say_so(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"there is no folder .*absent; if it was moved, change data\.path"
    ):
        scan_folder(tmp_path / "absent")
    with pytest.raises(ValueError, match="it needs one for each class"):
        scan_folder(tmp_path)


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (("cat", "two\u2028lines"), r"the class folder 'two\u2028lines' needs another name"),
        (("cat", "two\nlines"), r"the class folder 'two\nlines' needs another name"),
        (("cat", " dog"), "the class folder ' dog' needs another name"),
        (("cat", "caf\udce9"), r"the class folder 'caf\udce9' needs another name"),
        (
            ("cat",),
            "there is only the class 'cat'; at least 2 folders with images in them are needed",
        ),
    ],
)
def test_classes_that_labels_txt_cannot_hold_are_refused_by_check_and_train(
    names: tuple[str, ...], problem: str, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(encoded("PNG", (4, 4)))
    with pytest.raises(ValueError, match=re.escape(problem)):
        read_labels(config_of(tmp_path))
    result = CliRunner().invoke(app, ["data", "check", str(tmp_path)])
    assert result.exit_code == 1
    assert problem in result.output
