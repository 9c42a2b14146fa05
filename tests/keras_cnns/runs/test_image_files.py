"""Files are found by name, folder and pattern, and read in order even if one is damaged."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_cnns.recipes import load_recipe
from keras_cnns.runs.image_files import describe_problem, find_image_files, read_files

DATA = load_recipe("digits-resnet20").data


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("b/2.png", "b/1.JPG", "a/deep/3.webp", "a/notes.txt", ".hidden/4.png", "c/5.heic"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "b/._1.jpg").write_bytes(b"")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX/6.png").write_bytes(b"")
    return tmp_path


def test_folders_patterns_and_names(photos: Path) -> None:
    def found(*names: str) -> list[str]:
        paths = find_image_files(photos / name for name in names)
        return [path.relative_to(photos).as_posix() for path in paths]

    everything = ["a/deep/3.webp", "b/1.JPG", "b/2.png", "c/5.heic"]
    assert found(".") == everything
    assert found("b/*.png") == ["b/2.png"]
    assert found("**/*.png") == ["__MACOSX/6.png", "b/2.png"]
    assert found("[ab]") == everything[:3]
    assert found("b/2.png", "b", "b/2.png") == ["b/2.png", "b/1.JPG"]
    assert found("gone.png", "a/notes.txt") == ["gone.png", "a/notes.txt"]  # bad when they are read
    (photos / "[x].png").write_bytes(b"")
    assert found("[x].png") == ["[x].png"]  # a file's name, not a pattern


def test_links_to_folders_are_named_and_not_followed(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    everything = find_image_files([photos])
    (photos / "a/loop").symlink_to(photos)
    assert find_image_files([photos]) == everything
    assert capsys.readouterr().err == f"1 link to a folder was not followed: {photos}/a/loop\n"
    (photos / "a/other").symlink_to(photos / "b")
    assert find_image_files([photos / "a"]) == everything[:1]
    message = f"2 links to folders were not followed: {photos}/a/"
    assert capsys.readouterr().err.startswith(message)
    assert find_image_files([photos / "**/*.JPG"]) == [photos / "b/1.JPG"]
    assert len(find_image_files([photos / "a/other"])) == 2  # a link that is named itself


@pytest.mark.parametrize(
    ("name", "message"), [("b/*.gif", "no file matches "), ("empty", "there is no image in the fo")]
)
def test_nothing_to_read_is_an_error(photos: Path, name: str, message: str) -> None:
    (photos / "empty").mkdir()
    with pytest.raises(ValueError, match=message):
        find_image_files([photos / name])


def test_bad_files_keep_their_index(tmp_path: Path) -> None:
    pixels = np.full((9, 9, 3), 200, np.uint8)
    names = ["0.png", "1.png", "gone.png", "pipe.png", "4.png"]
    for name in ("0.png", "4.png"):
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "1.png").write_bytes(b"no image")
    os.mkfifo(tmp_path / "pipe.png")
    batches = list(read_files([tmp_path / name for name in names], DATA, batch_size=2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    read = [each for batch in batches for each in batch]
    assert [path.name for path, _ in read] == names
    problems = [
        describe_problem(path, image) if isinstance(image, Exception) else image.shape
        for path, image in read
    ]
    size = (DATA.image_size, DATA.image_size, DATA.channels)
    assert problems == [
        size,
        "not a JPEG, PNG, WebP, BMP or GIF image",
        "No such file or directory",
        "not a regular file",
        size,
    ]


def test_at_most_two_batches_are_read_ahead(tmp_path: Path) -> None:
    requested = 0

    def names() -> object:
        nonlocal requested
        for number in range(1000):
            requested += 1
            yield tmp_path / f"{number}.png"

    batches = read_files(names(), DATA, batch_size=10)  # type: ignore[arg-type]
    next(batches)
    assert requested == 20
