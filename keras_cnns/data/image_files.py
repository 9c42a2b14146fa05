"""A folder of images, each file opened, decoded and hashed once."""

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf
from rich.console import Console
from rich.progress import track

from keras_cnns.cores import available_cores
from keras_cnns.data.decoding import decode
from keras_cnns.data.images import read_header

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "test": "test",
    "testing": "test",
}
PROGRESS_FROM = 2_000  # files: some seconds


@dataclass(frozen=True)
class ImageFile:
    """A file in a class's folder."""

    path: Path
    label: str
    split: str | None  # that its folder says, if the folder has split folders
    digest: str  # of its bytes
    format: str = ""  # as its content says: JPEG, PNG or WEBP
    size: tuple[int, int] = (0, 0)  # pixels, height and width, upright
    orientation: int = 1  # as EXIF counts
    problem: str = ""  # why it cannot be read; empty if it can

    @property
    def place(self) -> float:
        """A number in [0, 1) that depends on the content alone."""
        return int(self.digest[:8], 16) / 2**32


def scan_folder(root: str | Path) -> list[ImageFile]:
    """Return the files of a folder's classes, in the order of their paths.

    Args:
        root: has a folder for each class, or folders for splits (train, validation or val, test)
            which have them. Hidden files, and files beside the folders, are left alone.

    Raises:
        ValueError: there is no such folder, or no class in it.
    """
    found = sorted(_find(Path(root)))
    if not found:
        raise ValueError(f"{root} has no folder with images in it; it needs one for each class")
    with ThreadPoolExecutor(available_cores()) as pool:
        # Images are decoded outside of Python's lock.
        files: Iterable[ImageFile] = pool.map(_inspect, *zip(*found, strict=True))
        if len(found) >= PROGRESS_FROM:
            files = track(files, f"reading {root}", len(found), console=Console(file=sys.stderr))
        return list(files)


def _find(root: Path) -> Iterator[tuple[Path, str, str]]:
    """Give each file with its class's name and its split's, which may be empty."""
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}")
    names = {each.name.lower() for each in _folders(root)}
    has_splits = "train" in {SPLIT_FOLDERS.get(name) for name in names}
    if has_splits and (others := names - set(SPLIT_FOLDERS)):
        raise ValueError(
            f"{root} has split folders, and beside them {', '.join(sorted(others))}; "
            f"move what is no split away (splits: {', '.join(SPLIT_FOLDERS)})"
        )
    splits = _folders(root) if has_splits else [root]
    for split_folder in splits:
        split = SPLIT_FOLDERS[split_folder.name.lower()] if has_splits else ""
        for class_folder in _folders(split_folder):
            for folder, below, names_here in os.walk(class_folder):
                below[:] = [name for name in below if not name.startswith(".")]
                for name in names_here:
                    if not name.startswith("."):
                        yield Path(folder, name), class_folder.name, split


def _folders(folder: Path) -> list[Path]:
    return [each for each in folder.iterdir() if each.is_dir() and not each.name.startswith(".")]


def _inspect(path: Path, label: str, split: str) -> ImageFile:
    """Read a file whole."""
    digest, header = "", None
    try:
        if path.exists() and not path.is_file():  # to open a pipe would wait for a writer
            raise ValueError("not a regular file")
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        header = read_header(content)
        decode(tf.constant(content))
    except tf.errors.OpError:
        assert header
        problem = f"damaged or cut short, though it begins as {header[0]}"
    except (OSError, ValueError) as error:
        problem = str(error)
    else:
        return ImageFile(path, label, split or None, digest, *header)
    return ImageFile(path, label, split or None, digest, problem=problem)
