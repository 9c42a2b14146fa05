"""Find near-duplicates, and images that are blurry, dark, tiny or of one colour.

`data check` reports such images, but training uses them, because they may be intended.
"""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from keras_cnns.data.sources.folder.findings import Finding, printable
from keras_cnns.data.sources.folder.image_file import ImageFile

# An image is tiny if its shorter side is below this fraction of the median shorter side.
_TINY_FRACTION = 0.25


def find_near_duplicates(root: Path, files: Iterable[ImageFile]) -> tuple[Finding, ...]:
    """Return the groups of near-duplicates: across splits, across classes, and within a class."""
    groups = defaultdict(list)
    for file in files:
        if file.near:
            groups[file.near].append(file)

    def finding(title: str, chosen: Callable[[bool, bool], bool]) -> Finding:
        lines = (
            " ~ ".join(_name(root, file) for file in group)
            for group in groups.values()
            if chosen(
                len({file.split for file in group}) > 1, len({file.label for file in group}) > 1
            )
        )
        return Finding(title, tuple(lines), is_error=False)

    return (
        finding(
            "near-duplicates in different splits, which make the metrics look too good",
            lambda splits, _: splits,
        ),
        finding(
            "near-duplicates in different classes, whose labels may be wrong",
            lambda splits, labels: labels and not splits,
        ),
        finding(
            "near-duplicates within a class, which are kept in the same split",
            lambda splits, labels: not labels and not splits,
        ),
    )


def find_poor_images(root: Path, files: Sequence[ImageFile]) -> tuple[Finding, ...]:
    """Return the images that are blurry, dark, tiny or of one colour, the worst images first."""
    sides = [min(file.size) for file in files]
    limit = _TINY_FRACTION * statistics.median(sides) if sides else 0
    looks = [(file, file.appearance) for file in files if file.appearance]

    def finding(title: str, found: Iterable[tuple[float, ImageFile, str]]) -> Finding:
        ordered = sorted(found, key=lambda each: (each[0], each[1].path))
        lines = (f"{_name(root, file)}: {text}" for _, file, text in ordered)
        return Finding(title, tuple(lines), is_error=False)

    return (
        finding(
            "blurry images",
            (
                (seen.sharpness, file, f"sharpness {seen.sharpness:.4f}")
                for file, seen in looks
                if seen.is_blurry
            ),
        ),
        finding(
            "dark images",
            (
                (seen.brightness, file, f"99 % of the pixels are below level {seen.brightness:.0f}")
                for file, seen in looks
                if seen.is_dark and not seen.is_flat
            ),
        ),
        finding(
            "images of one colour",
            (
                (seen.deviation, file, f"standard deviation {seen.deviation:.1f} (levels 0 to 255)")
                for file, seen in looks
                if seen.is_flat
            ),
        ),
        finding(
            "tiny images",
            (
                (side, file, f"{file.size[1]}x{file.size[0]} pixels")
                for file, side in zip(files, sides, strict=True)
                if side < limit
            ),
        ),
    )


def _name(root: Path, file: ImageFile) -> str:
    return printable(file.path.relative_to(root).as_posix())
