"""Assign a folder's images to splits: by split folder, or by content."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from keras_cnns.data.sources.by_content import FRACTIONS, split_by_fraction
from keras_cnns.data.sources.folder.image_file import ImageFile

# If at most this many images are split by content, a split may by chance lack a class.
_SMALL_FOLDER = 30


def assign_splits(files: Sequence[ImageFile], wanted: Iterable[str]) -> dict[str, list[ImageFile]]:
    """Return the files of each split.

    A file in a split folder belongs to that split. A requested split without a folder is created
    from the training files by content: an image, its copies and its near-duplicates are always in
    the same split. The split of an image without near-duplicates does not depend on the other
    images. The split of a group of near-duplicates depends on the smallest digest in the group.

    If at most `_SMALL_FOLDER` images are split by content, or if a split would be empty, images are
    moved so that each split has an image of each class. The images come from the split with the
    most images of their class.

    Args:
        files: readable images.
        wanted: the names of the splits to return.
    """
    splits: dict[str, list[ImageFile]] = {"train": []}
    for file in files:
        splits.setdefault(file.split or "train", []).append(file)
    held_out = held_out_splits(files, wanted)
    if not held_out:
        return splits
    divided, splits["train"] = splits["train"], []
    for file in divided:
        splits.setdefault(split_by_fraction(file.fraction, held_out), []).append(file)
    names = ("train", *held_out)
    if len(divided) <= _SMALL_FOLDER or not all(splits.get(name) for name in names):
        for label in sorted({file.label for file in divided}):
            _represent_class(splits, names, label)
    return splits


def held_out_splits(files: Iterable[ImageFile], wanted: Iterable[str]) -> list[str]:
    """Return the requested splits that are created from the training files, in a fixed order."""
    missing = set(wanted) - {file.split for file in files}
    return [name for name in FRACTIONS if name in missing]


def find_scarce_classes(
    files: Sequence[ImageFile], wanted: Iterable[str]
) -> tuple[int, dict[str, int]]:
    """Return the number of different images that each class needs, and the classes with fewer.

    These classes are returned as a dict: class -> number of different images.

    The training split, and every split that is created from it, needs one image of each class. A
    group of near-duplicates counts as one image. If more than `_SMALL_FOLDER` images are split, no
    class is reported.
    """
    minimum = 1 + len(held_out_splits(files, wanted))
    divided = [file for file in files if file.split in (None, "train")]
    if minimum == 1 or len(divided) > _SMALL_FOLDER:
        return minimum, {}
    contents = defaultdict(set)
    for file in divided:
        contents[file.label].add(file.content)
    counts = {label: len(found) for label, found in sorted(contents.items())}
    return minimum, {label: count for label, count in counts.items() if count < minimum}


def _represent_class(splits: dict[str, list[ImageFile]], names: Sequence[str], label: str) -> None:
    """Move images of a class so that each split has at least one, if there are enough images."""

    def images(name: str) -> set[tuple[float, str]]:
        members = splits.setdefault(name, [])
        return {(file.fraction, file.content) for file in members if file.label == label}

    for name in names:
        donor = max(names, key=lambda each: len(images(each)))
        if not images(name) and len(images(donor)) > 1:
            _, content = min(images(donor))
            moved = [each for each in splits[donor] if each.content == content]
            splits[donor] = [each for each in splits[donor] if each.content != content]
            splits[name] = sorted([*splits[name], *moved], key=lambda each: each.path)
