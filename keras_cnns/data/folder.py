"""A folder of images as a data set: a folder for each class, with or without split folders."""

import functools
import hashlib
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import tensorflow as tf

from keras_cnns.data.decoding import decode, set_upright
from keras_cnns.data.image_files import ImageFile, scan_folder
from keras_cnns.data.samples import Pair, Samples, slice_split

# Where a file lies by its content, if its split has no folder; what is in neither range is trained.
SHARES = {"validation": (0.0, 0.1), "test": (0.1, 0.2)}
LISTED = 10  # unreadable files in an error
NO_TEXT = re.compile(r"[\ud800-\udfff]")  # what Python makes of a file name's odd bytes


class UnreadableFilesError(ValueError):
    """Files that cannot be read; the message lists them."""


def assign_splits(files: Iterable[ImageFile], wanted: Iterable[str]) -> dict[str, list[ImageFile]]:
    """Return the files of each split.

    Where there are split folders, a file is in its folder's split. A wanted split that has none is
    taken out of the training files by their content: the same file falls always on the same side,
    whatever else is there, and its copies with it.

    Args:
        files: what `scan_folder` found.
        wanted: the names of splits to have.
    """
    splits: dict[str, list[ImageFile]] = {"train": []}
    for file in files:
        splits.setdefault(file.split or "train", []).append(file)
    taken = {name: SHARES[name] for name in SHARES if name in set(wanted) - set(splits)}
    rest, splits["train"] = splits["train"], []
    for file in rest:
        sides = [name for name, (low, high) in taken.items() if low <= file.place < high]
        splits.setdefault(sides[0] if sides else "train", []).append(file)
    return splits


@functools.lru_cache(maxsize=8)
def read_files(root: str, skip_bad: bool) -> tuple[ImageFile, ...]:
    """Return a folder's readable files.

    Args:
        root: the folder.
        skip_bad: list the files that cannot be read, on stderr, and go on without them.

    Raises:
        UnreadableFilesError: there are unreadable files, and `skip_bad` is not set.
        ValueError: there is no such folder, or no class in it.
    """
    files = scan_folder(root)
    bad = [file for file in files if file.problem]
    if bad and not skip_bad:
        more = f"; and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
        raise UnreadableFilesError(
            f"{len(bad)} of {len(files)} files in {root} cannot be read: "
            f"{'; '.join(f'{file.path}: {file.problem}' for file in bad[:LISTED])}{more}. "
            "Mend or remove them, or go on without them with --skip-bad"
        )
    for file in bad:
        print(f"skipped {file.path}: {file.problem}", file=sys.stderr)
    if len(bad) == len(files):
        raise UnreadableFilesError(f"none of the {len(files)} files in {root} can be read")
    return tuple(file for file in files if not file.problem)


def read_labels(files: Sequence[ImageFile]) -> tuple[str, ...]:
    """Return the classes' names, in the order of their numbers, which is the alphabet's.

    Raises:
        ValueError: there are fewer than 2, or one would break its line in labels.txt.
    """
    labels = sorted({file.label for file in files})
    if problems := find_label_problems(labels):
        raise ValueError("; ".join(problems))
    return tuple(labels)


def find_label_problems(labels: Sequence[str]) -> list[str]:
    """Return what stands against these names of classes, in words."""
    problems = [
        f"the class folder {label!r} needs another name: one line of UTF-8 text without space "
        "around it"
        for label in labels
        if label.splitlines() != [label] or label != label.strip() or NO_TEXT.search(label)
    ]
    if len(labels) < 2:
        problems.append(f"there is only the class {labels[0]!r}" if labels else "there is no class")
        problems[-1] += "; to tell apart there must be at least 2 folders with images in them"
    return problems


def open_samples(files: Sequence[ImageFile], split: str, wanted: Iterable[str]) -> Samples:
    """Return a split's images, read from their files when they are needed.

    Raises:
        ValueError: there is no such split, or nothing in it.
    """
    splits = assign_splits(files, wanted)
    counts = {name: len(members) for name, members in splits.items()}
    name, start, stop = slice_split(counts, split)
    members = splits[name][start:stop]
    labels = {label: number for number, label in enumerate(read_labels(files))}
    paths = tf.constant([os.fsencode(file.path) for file in members])
    orientations = tf.constant([file.orientation for file in members])
    classes = tf.constant([labels[file.label] for file in members], tf.int64)
    all_upright = all(file.orientation == 1 for file in members)

    def read(number: tf.Tensor) -> Pair:
        image = decode(tf.io.read_file(paths[number]))
        if not all_upright:
            image = set_upright(image, orientations[number])
        return image, classes[number]

    return Samples(len(members), read)


def fingerprint(files: Sequence[ImageFile], root: str | Path) -> str:
    """Return a hash of the files' places and contents."""
    lines = (f"{file.path.relative_to(root).as_posix()} {file.digest}\n" for file in files)
    return hashlib.sha256(os.fsencode("".join(lines))).hexdigest()
