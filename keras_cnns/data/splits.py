"""The splits of a folder's images: those of its split folders, and others by content."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from keras_cnns.data.image_files import ImageFile
from keras_cnns.data.samples import FRACTIONS, split_by_fraction

SMALL = 30  # images; chance may leave a class of so few without an image in some split


def assign_splits(files: Sequence[ImageFile], wanted: Iterable[str]) -> dict[str, list[ImageFile]]:
    """Return the files of each split.

    With split folders, a file is in its folder's split. A wanted split without a folder is taken
    out of the training files by content: an image and its copies are always in the same split,
    whatever other images there are.

    If at most `SMALL` images are split by content, or a split would be empty, each class without an
    image in a split gets one there, from the split that has most images of the class.

    Args:
        files: readable images.
        wanted: the names of the splits to return.
    """
    splits: dict[str, list[ImageFile]] = {"train": []}
    for file in files:
        splits.setdefault(file.split or "train", []).append(file)
    taken = taken_splits(files, wanted)
    if not taken:
        return splits
    rest, splits["train"] = splits["train"], []
    for file in rest:
        splits.setdefault(split_by_fraction(file.fraction, taken), []).append(file)
    sides = ("train", *taken)
    if len(rest) > SMALL and all(splits.get(side) for side in sides):
        return splits
    for label in sorted({file.label for file in rest}):
        _spread(splits, sides, label)
    return splits


def taken_splits(files: Iterable[ImageFile], wanted: Iterable[str]) -> list[str]:
    """Return the wanted splits that are taken out of the training files, in a fixed order."""
    missing = set(wanted) - {file.split for file in files}
    return [name for name in FRACTIONS if name in missing]


def images_needed(files: Sequence[ImageFile], wanted: Iterable[str]) -> tuple[int, dict[str, int]]:
    """Return how many different images a class needs, and the classes of few images that have less.

    Every split that is taken out of the training files needs one of each class, and so does the
    training split. Nothing is asked of folders with more than `SMALL` images to split.
    """
    needed = 1 + len(taken_splits(files, wanted))
    rest = [file for file in files if file.split in (None, "train")]
    if needed == 1 or len(rest) > SMALL:
        return needed, {}
    images = defaultdict(set)
    for file in rest:
        images[file.label].add(file.digest)
    return needed, {k: len(found) for k, found in sorted(images.items()) if len(found) < needed}


def _spread(splits: dict[str, list[ImageFile]], sides: Sequence[str], label: str) -> None:
    """Move images of a class so that each side has one, as far as there are enough of them."""

    def images(side: str) -> set[tuple[float, str]]:
        members = splits.setdefault(side, [])
        return {(file.fraction, file.digest) for file in members if file.label == label}

    for side in sides:
        donor = max(sides, key=lambda each: len(images(each)))
        if not images(side) and len(images(donor)) > 1:
            _, digest = min(images(donor))
            moved = [each for each in splits[donor] if each.digest == digest]
            splits[donor] = [each for each in splits[donor] if each.digest != digest]
            splits[side] = sorted([*splits[side], *moved], key=lambda each: each.path)
