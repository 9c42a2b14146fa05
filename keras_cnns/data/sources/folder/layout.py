"""Find the classes and splits of a folder of images."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "test": "test",
    "testing": "test",
}
_SUFFIX = re.compile(r"[ _-]?(set|data|images)$")  # matches the end of training_set
# Folders of operating systems, which hold no photos; some of them only root can read.
_SYSTEM_FOLDERS = ("__MACOSX", "lost+found", "System Volume Information", "$RECYCLE.BIN")


class FoundFile(NamedTuple):
    """A file below a class folder.

    Attributes:
        path: the path of the file.
        label: the name of the class folder.
        split: the split that its split folder names; None without split folders.
    """

    path: Path
    label: str
    split: str | None


@dataclass(frozen=True)
class Layout:
    """The files of a folder of images.

    Attributes:
        files: the files in class folders, sorted by path.
        outside: the files beside the class folders, which belong to no class.
        links: the links to folders inside class folders, which are not followed.
    """

    files: tuple[FoundFile, ...]
    outside: tuple[Path, ...]
    links: tuple[Path, ...]


def read_layout(root: str | Path) -> Layout:
    """Find the classes, splits and files of a folder.

    Split folders are named train, validation or test, or have a usual variant of these names in
    upper or lower case (Training, val, test_set, ...). They contain class folders. A folder named
    "train" that holds no folders and lies beside other folders is a class, for example in a data
    set of vehicles.

    Class folders and split folders may be links. Links to folders inside a class folder are not
    followed, because they can lead to images of another class, or back to a folder above them.

    Args:
        root: a folder with one folder for each class, or with split folders that contain such
            folders.

    Raises:
        ValueError: there is no such folder, or it is unclear which of its folders are splits.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(
            f"there is no folder {root.absolute()}; if it was moved, change data.path in the "
            "recipe, or in config.toml of a run directory. A relative data.path is relative to the "
            f"working directory, here {Path.cwd()}"
        )
    splits = _find_split_folders(root)
    parents: list[tuple[Path, str | None]] = [*splits.items()] or [(root, None)]
    links: list[Path] = []
    files = (
        FoundFile(path, folder.name, split)
        for parent, split in parents
        for folder in _folders(parent)
        for path in walk(folder, links)
    )
    outside = sorted(path for folder in (root, *splits) for path in _files(folder))
    # Sorting by the parts of the paths gives the same order as sorting by the paths, and is ten
    # times as fast.
    ordered = sorted(files, key=lambda file: file.path.parts)
    return Layout(tuple(ordered), tuple(outside), tuple(sorted(links)))


def _find_split_folders(root: Path) -> dict[Path, str]:
    """Return a dict from split folder to split; it is empty if all folders are classes."""
    folders = _folders(root)
    named = {each: split for each in folders if (split := _split_of(each.name))}
    with_classes = {each: split for each, split in named.items() if _folders(each)}
    others = ", ".join(sorted(each.name for each in folders if each not in named))
    names = ", ".join(sorted(each.name for each in named))
    if with_classes and len(set(named.values())) < len(named):
        raise ValueError(f"{root} has several folders for one split ({names}); keep one of them")
    if "train" in with_classes.values():
        if others:
            raise ValueError(
                f"{root} has split folders ({names}), and beside them {others}; move away the "
                "folders that are not splits, or rename the split folders if they are classes"
            )
        return named
    if others or not named:
        return {}
    if with_classes:
        raise ValueError(f"{root} has the split folders {names}, but no split folder named train")
    raise ValueError(
        f"{root} has only folders that are named like splits ({names}), without class folders in "
        "them; each of them needs one folder for each class. If they are themselves the classes, "
        "rename them"
    )


def _split_of(name: str) -> str | None:
    """Return the split that a folder's name denotes; None if the name denotes no split."""
    return _SPLIT_FOLDERS.get(_SUFFIX.sub("", name.casefold()))


def _folders(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if _may_hold_photos(path.name) and path.is_dir()
    )


def _may_hold_photos(name: str) -> bool:
    """Return whether a folder of this name is searched: it is neither hidden nor the system's."""
    return not name.startswith(".") and name not in _SYSTEM_FOLDERS


def _files(folder: Path) -> list[Path]:
    return [each for each in folder.iterdir() if not each.is_dir()]


def walk(folder: Path, links: list[Path]) -> Iterator[Path]:
    """Yield the files of a folder and its subfolders, except hidden folders.

    Links to folders are not followed, and are appended to `links`.

    Raises:
        ValueError: a folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise ValueError(f"cannot read the folder {error.filename}: {error.strerror}")

    for directory, subfolders, names in os.walk(folder, onerror=fail):
        subfolders[:] = filter(_may_hold_photos, subfolders)
        links += [each for name in subfolders if (each := Path(directory, name)).is_symlink()]
        yield from (Path(directory, name) for name in names)
