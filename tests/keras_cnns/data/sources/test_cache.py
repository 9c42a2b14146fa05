"""The cache of what was read from a folder: valid while nothing changed, harmless otherwise."""

import os
import stat
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from keras_cnns.data.check import check_folder
from keras_cnns.data.sources import cache
from keras_cnns.data.sources.cache import cache_directory
from keras_cnns.data.sources.folder import files
from keras_cnns.data.sources.folder.cache import FolderCache
from keras_cnns.data.sources.folder.files import recall_images, scan_folder
from keras_cnns.data.sources.folder.layout import FoundFile, read_layout


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a cache that also keeps files that have just been written."""
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "SETTLED_SECONDS", -3600.0)
    return tmp_path / "cache"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with images of two classes, a damaged file, notes, and a name that is no text."""
    root = tmp_path / "photos"
    for seed in range(12):
        path = root / "ab"[seed % 2] / f"{seed}.{('png', 'jpg', 'bmp', 'gif')[seed % 4]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(seed).save(path)
    (root / "a" / "cut.png").write_bytes((root / "a" / "0.png").read_bytes()[:60])
    (root / "a" / "notes.txt").write_text("Hund")
    (root / "b" / os.fsdecode(b"caf\xe9.png")).write_bytes((root / "a" / "0.png").read_bytes())
    return root


def picture(seed: int) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), np.uint8)
    return Image.fromarray(levels)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Return a counter that will contain how often each file is read."""
    counts: Counter[str] = Counter()
    inspect = files.inspect_file

    def counted(file: FoundFile, *arguments: object, **options: object) -> object:
        counts[file.path.name] += 1
        return inspect(file, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(files, "inspect_file", counted)
    return counts


def archives(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*.npz"))


def test_a_second_scan_reads_nothing_and_finds_the_same(
    photos: Path, directory: Path, read: Counter[str]
) -> None:
    first = scan_folder(photos)
    assert set(read.values()) == {1}
    assert len(read) == 15
    report = check_folder(photos)
    read.clear()
    again = scan_folder(photos)
    assert not read
    assert again == first
    assert [image.appearance for image in again.files] == [
        image.appearance for image in first.files
    ]
    assert recall_images(photos, read_layout(photos).files) == first.files
    assert check_folder(photos) == report
    assert not read
    assert {path.parent.name for path in archives(directory)} == {"scans", "groups"}
    for path in archives(directory):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not list(photos.rglob("*.npz"))


def test_a_relative_path_has_the_same_cache(
    photos: Path, directory: Path, read: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [file.path.relative_to(photos) for file in scan_folder(photos).files]
    read.clear()
    monkeypatch.chdir(photos.parent)
    assert [file.path for file in scan_folder("photos/").files] == [
        "photos" / name for name in names
    ]
    monkeypatch.chdir(photos)
    assert [file.path for file in scan_folder(".").files] == names
    assert not read


def test_only_changed_and_new_files_are_read(
    photos: Path, directory: Path, read: Counter[str]
) -> None:
    before = scan_folder(photos)
    read.clear()
    picture(100).save(photos / "a" / "new.png")
    changed = photos / "b" / "1.jpg"
    picture(101).save(changed)
    # Of the same size and modification time, but written later.
    replaced = photos / "a" / "2.bmp"
    status = replaced.stat()
    picture(102).save(replaced)
    assert replaced.stat().st_size == status.st_size
    os.utime(replaced, ns=(status.st_atime_ns, status.st_mtime_ns))
    (photos / "a" / "4.png").unlink()
    (photos / "a" / "8.png").rename(photos / "a" / "renamed.png")
    after = scan_folder(photos)
    assert read == dict.fromkeys(["new.png", "1.jpg", "2.bmp", "renamed.png"], 1)
    digests = {file.path.name: file.digest for file in before.files}
    for file in after.files:
        differs = file.path.name in ("new.png", "1.jpg", "2.bmp", "renamed.png")
        assert (digests.get(file.path.name) != file.digest) == differs
    read.clear()
    scan_folder(photos)
    assert not read
    with np.load(next((directory / "scans").iterdir())) as archive:
        assert b"4.png" not in archive["names"].tobytes()


def test_a_file_that_has_just_changed_is_read_again(
    photos: Path, directory: Path, read: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "SETTLED_SECONDS", 2.0)
    for _ in range(2):
        scan_folder(photos)
    assert set(read.values()) == {2}
    assert not (directory / "scans").exists()


def test_a_file_that_could_not_be_read_is_tried_again(
    photos: Path, directory: Path, read: Counter[str]
) -> None:
    (photos / "a" / "link.png").symlink_to(photos / "absent")
    (photos / "a" / "pipe.png").symlink_to("/dev/null")
    for _ in range(2):
        problems = {file.path.name for file in scan_folder(photos).files if file.problem}
    assert problems == {"cut.png", "link.png", "pipe.png"}
    assert read["link.png"] == read["pipe.png"] == 2
    assert read["cut.png"] == 1


@pytest.mark.parametrize("damage", ["cut", "empty", "words", "pickle", "version", "rows", "index"])
def test_a_damaged_cache_is_ignored_and_written_anew(
    damage: str, photos: Path, directory: Path, read: Counter[str]
) -> None:
    first = check_folder(photos)
    for path in archives(directory):
        content = path.read_bytes()
        with np.load(path) as archive:
            arrays: dict[str, Any] = dict(archive)
        if damage == "cut":
            path.write_bytes(content[: len(content) // 2])
        elif damage == "empty":
            path.write_bytes(b"")
        elif damage == "words":
            path.write_bytes(b"no archive")
        elif damage == "pickle":
            objects: dict[str, Any] = dict.fromkeys(arrays, np.array([print], object))
            np.savez(path, **objects)
        elif "rows" not in arrays:
            np.savez(path, groups=arrays["groups"] + 1)
        elif damage == "version":
            header = arrays["header"].tobytes().replace(b'"version": [1,', b'"version": [0,')
            np.savez(path, **{**arrays, "header": np.frombuffer(header, np.uint8)})
        elif damage == "rows":
            np.savez(path, **{**arrays, "rows": arrays["rows"][1:]})
        else:
            arrays["rows"]["format"] = 1000
            np.savez(path, **arrays)
    read.clear()
    assert check_folder(photos) == first
    assert set(read.values()) == {1}
    read.clear()
    assert check_folder(photos) == first
    assert not read
    for path in archives(directory):
        assert zipfile.ZipFile(path).testzip() is None


def test_the_directory_is_chosen_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(cache.VARIABLE)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_directory() == tmp_path / ".cache" / "keras-cnns"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_directory() == tmp_path / ".cache" / "keras-cnns"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "keras-cnns"
    monkeypatch.setenv(cache.VARIABLE, "~/mine")
    assert cache_directory() == tmp_path / "mine"
    monkeypatch.setenv(cache.VARIABLE, "off")
    assert cache_directory() is None


@pytest.mark.parametrize("place", ["inside", "off", "unwritable"])
def test_no_cache_is_no_error(
    place: str, photos: Path, tmp_path: Path, read: Counter[str], directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "file").touch()
    places = {"inside": photos / "a" / "cache", "off": "off", "unwritable": tmp_path / "file" / "x"}
    monkeypatch.setenv(cache.VARIABLE, str(places[place]))
    before = sorted(tmp_path.rglob("*"))
    for _ in range(2):
        check_folder(photos)
    assert set(read.values()) == {2}
    assert sorted(tmp_path.rglob("*")) == before


def test_the_cache_is_bounded(
    photos: Path, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan_folder(photos)
    (oldest,) = (directory / "scans").iterdir()
    os.utime(oldest, (2, 2))
    for groups in (directory / "groups").iterdir():
        groups.unlink()
    (directory / "scans" / "left.partial").touch()
    os.utime(directory / "scans" / "left.partial", (1, 1))
    (directory / "scans" / "patient.png").touch()  # the directory may hold other files
    os.utime(directory / "scans" / "patient.png", (1, 1))
    monkeypatch.setattr(cache, "MAX_BYTES", oldest.stat().st_size + 1000)
    other = tmp_path / "other"
    photos.rename(other)
    scan_folder(other)
    (directory / "scans" / "patient.png").unlink()
    (kept,) = (directory / "scans").iterdir()
    assert kept != oldest


def test_two_processes_may_write_at_once(photos: Path, directory: Path) -> None:
    layout = read_layout(photos)
    scan = scan_folder(photos)
    one, other = FolderCache(photos), FolderCache(photos)
    for writer in (one, other):
        for image in scan.files:
            writer.add(image.found, cache.read_times(image.path), image)
        writer.add(layout.files[-1], cache.read_times(layout.files[-1].path), None)
    one.save()
    other.save()
    assert len(list((directory / "scans").iterdir())) == 1
    assert FolderCache(photos).find(scan.files[0].found) == (scan.files[0],)
