"""A folder of images as a data set: a folder for each class, with or without split folders."""

import functools
import hashlib
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import tensorflow as tf

from keras_cnns.data.decoding import decode, decode_with_pillow, set_upright
from keras_cnns.data.findings import Finding, describe, find_problems, find_split_problems
from keras_cnns.data.image_files import ImageFile, Scan, scan_folder
from keras_cnns.data.samples import Pair, Samples, slice_split
from keras_cnns.data.splits import assign_splits


class FolderError(ValueError):
    """A folder that cannot be trained on; the message lists what `data check` finds."""


@functools.lru_cache(maxsize=8)
def read_files(root: str, skip_bad: bool) -> tuple[ImageFile, ...]:
    """Return the images of a folder.

    Args:
        root: the folder.
        skip_bad: list the files that training would be refused for on stderr, and leave them out.

    Raises:
        FolderError: there is something wrong with the files or classes.
        ValueError: there is no such folder, or no class in it, or its layout is unclear.
    """
    scan = scan_folder(root)
    if skip_bad:
        scan = _without_bad_files(scan)
    _refuse(root, find_problems(scan))
    return scan.files


def _without_bad_files(scan: Scan) -> Scan:
    reasons = {
        file.path: file.problem or finding.title
        for finding in find_problems(scan)
        for file in finding.left_out
    }
    for path, reason in reasons.items():
        print(f"skipped {path}: {reason}", file=sys.stderr)
    files = tuple(file for file in scan.files if file.path not in reasons)
    if not files:
        raise FolderError(f"none of the {len(scan.files)} files in {scan.root} can be used")
    return Scan(scan.root, files, scan.others, scan.outside)


def _refuse(root: str | Path, findings: Iterable[Finding]) -> None:
    """Raise FolderError if there is a finding that training is refused for."""
    bad = [finding for finding in findings if finding.is_bad and finding.lines]
    if not bad:
        return
    hint = (
        ". Repair or remove the files, or leave them out: data.skip_bad = true in the recipe, or "
        "`train --skip-bad`"
        if any(finding.left_out for finding in bad)
        else ""
    )
    raise FolderError(f"{root} cannot be used: {'. '.join(map(describe, bad))}{hint}")


def read_labels(files: Iterable[ImageFile]) -> tuple[str, ...]:
    """Return the names of the classes in the order of their indices, which is alphabetical."""
    return tuple(sorted({file.label for file in files}))


def open_samples(files: Sequence[ImageFile], split: str, wanted: Iterable[str]) -> Samples:
    """Return a split's images, read from their files when they are needed.

    Args:
        files: of the folder.
        split: a split's name, or a slicing of one.
        wanted: the splits that the recipe has; see `assign_splits`.

    Raises:
        FolderError: a class has no training images, or too few for all splits.
        ValueError: there is no such split, or nothing in it.
    """
    wanted = tuple(wanted)
    root = os.path.commonpath([file.path.parent.parent for file in files])
    _refuse(root, find_split_problems(files, wanted))
    splits = assign_splits(files, wanted)
    counts = {name: len(members) for name, members in splits.items()}
    name, start, stop = slice_split(counts, split)
    members = splits[name][start:stop]
    labels = {label: index for index, label in enumerate(read_labels(files))}
    paths = tf.constant([os.fsencode(file.path) for file in members])
    orientations = tf.constant([file.orientation for file in members])
    by_pillow = tf.constant([file.needs_pillow for file in members])
    classes = tf.constant([labels[file.label] for file in members], tf.int64)
    all_upright = all(file.orientation == 1 for file in members)
    all_fast = not any(file.needs_pillow for file in members)

    def read(index: tf.Tensor) -> Pair:
        content = tf.io.read_file(paths[index])

        def decode_fast() -> tf.Tensor:
            image = decode(content)
            return image if all_upright else set_upright(image, orientations[index])

        if all_fast:
            return decode_fast(), classes[index]
        image = tf.cond(by_pillow[index], lambda: decode_with_pillow(content), decode_fast)
        return image, classes[index]

    return Samples(len(members), read)


def fingerprint(files: Sequence[ImageFile], root: str | Path) -> str:
    """Return a hash of the files' relative paths and contents."""
    lines = (f"{file.path.relative_to(root).as_posix()} {file.digest}\n" for file in files)
    return hashlib.sha256(os.fsencode("".join(lines))).hexdigest()
