"""Where the classes and splits of a folder of images are."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "test": "test",
    "testing": "test",
}
_ENDING = re.compile(r"[ _-]?(set|data|images)$")  # as in training_set
_ARCHIVE_LEFTOVERS = "__MACOSX"


@dataclass(frozen=True)
class Layout:
    """The files of a folder of images."""

    images: tuple[
        tuple[Path, str, str], ...
    ]  # each file, its class, its split folder's split or ""
    outside: tuple[Path, ...]  # files beside the class folders, which belong to no class


def read_layout(root: str | Path) -> Layout:
    """Find the classes, splits and files of a folder.

    Split folders are named train, validation or test, or one of the usual variants in upper or
    lower case (Training, val, test_set, ...), and hold class folders. A folder named "train" that
    holds no folders, beside others, is a class: of vehicles, say.

    Args:
        root: a folder with one folder for each class, or with split folders that have them.

    Raises:
        ValueError: there is no such folder, or which of its folders are splits is unclear.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(
            f"there is no folder {root.absolute()}; if it was moved, change data.path in the "
            "recipe, or in config.toml of a run directory. A relative data.path is relative to the "
            f"working directory, here {Path.cwd()}"
        )
    splits = _split_folders(root)
    class_folders = [
        (folder, split)
        for parent, split in (splits.items() if splits else [(root, "")])
        for folder in _folders(parent)
    ]
    images = sorted(
        (path, folder.name, split) for folder, split in class_folders for path in _walk(folder)
    )
    outside = sorted(path for folder in (root, *splits) for path in _files(folder))
    return Layout(tuple(images), tuple(outside))


def split_of(name: str) -> str | None:
    """Return the split that a folder's name means; None if it means none."""
    return SPLITS.get(_ENDING.sub("", name.casefold()))


def _split_folders(root: Path) -> dict[Path, str]:
    """Return the split folders and their splits; none if all folders are classes."""
    folders = _folders(root)
    named = {each: split for each in folders if (split := split_of(each.name))}
    with_classes = {each: split for each, split in named.items() if _folders(each)}
    others = ", ".join(sorted(each.name for each in folders if each not in named))
    names = ", ".join(sorted(each.name for each in named))
    if with_classes and len(set(named.values())) < len(named):
        raise ValueError(f"{root} has several folders for one split ({names}); keep one")
    if "train" in with_classes.values():
        if others:
            raise ValueError(
                f"{root} has split folders ({names}), and beside them {others}; move away what is "
                "not a split, or rename the split folders if they are classes"
            )
        return named
    if others or not named:
        return {}
    if with_classes:
        raise ValueError(f"{root} has the split folders {names}, and none named train")
    raise ValueError(
        f"{root} has only folders that are named like splits ({names}), without class folders in "
        "them; each needs one folder for each class. If they are the classes, rename them"
    )


def _folders(folder: Path) -> list[Path]:
    return sorted(
        each
        for each in folder.iterdir()
        if each.is_dir() and not each.name.startswith(".") and each.name != _ARCHIVE_LEFTOVERS
    )


def _files(folder: Path) -> list[Path]:
    return [each for each in folder.iterdir() if not each.is_dir()]


def _walk(folder: Path) -> Iterator[Path]:
    """Give the files of a folder and of the folders in it, without hidden folders."""
    for directory, subdirectories, names in os.walk(folder):
        subdirectories[:] = [name for name in subdirectories if not name.startswith(".")]
        yield from (Path(directory, name) for name in names)
