"""Report the problems and the content of a folder of images."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from keras_cnns.data.class_balance import rare_classes
from keras_cnns.data.sources.by_content import FRACTIONS
from keras_cnns.data.sources.folder.files import scan_folder
from keras_cnns.data.sources.folder.findings import (
    Finding,
    find_problems,
    find_split_problems,
    printable,
)
from keras_cnns.data.sources.folder.image_file import ImageFile
from keras_cnns.data.sources.folder.near_duplicates import with_near_duplicates
from keras_cnns.data.sources.folder.quality import find_near_duplicates, find_poor_images
from keras_cnns.data.sources.folder.splits import assign_splits


@dataclass(frozen=True)
class Report:
    """The result of `check_folder`.

    Attributes:
        files: the number of images, readable or not.
        counts: printable name of a class -> split -> number of readable images.
        summary: lines on the balance of the classes and the sizes of the images.
        findings: the problems.
    """

    files: int
    counts: dict[str, dict[str, int]]
    summary: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def has_errors(self) -> bool:
        """Return whether training would be refused."""
        return any(finding.is_error and finding.lines for finding in self.findings)

    @property
    def errors_can_be_skipped(self) -> bool:
        """Return whether training would be possible without the files named in the errors."""
        errors = [finding for finding in self.findings if finding.is_error and finding.lines]
        return all(finding.to_skip for finding in errors)


def check_folder(root: str | Path) -> Report:
    """Check a folder of images, reading every file that is not cached, and return the report.

    Raises:
        ValueError: there is no such folder, or no class in it, or its layout is unclear.
    """
    scan = scan_folder(root)
    readable = [file for file in scan.files if not file.problem]
    counts: dict[str, dict[str, int]] = {
        printable(label): {} for label in sorted({file.label for file in scan.files})
    }
    grouped: Sequence[ImageFile] = readable
    if any(file.split for file in readable):
        # The files of all split folders are compared with each other.
        grouped = with_near_duplicates(root, readable)
    for split, members in assign_splits(readable, FRACTIONS).items():
        for label, count in Counter(file.label for file in members).items():
            counts[printable(label)][split] = count
    findings = (
        *find_problems(scan),
        *find_split_problems(readable, FRACTIONS),
        *find_near_duplicates(scan.root, grouped),
        *find_poor_images(scan.root, readable),
    )
    return Report(len(scan.files), counts, tuple(_summarize(readable, counts)), findings)


def _summarize(files: Sequence[ImageFile], counts: dict[str, dict[str, int]]) -> Iterable[str]:
    """Yield lines on the balance of the classes and the sizes of the images."""
    if not files:
        return
    if not any(file.split for file in files):
        yield (
            "splits: by content; an image, its copies and near-duplicates are always in the same "
            "split"
        )
    sizes = {label: sum(sides.values()) for label, sides in counts.items()}
    fewest, most = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
    yield f"balance: from {sizes[fewest]} ({fewest}) to {sizes[most]} ({most}) images per class"
    if rare := rare_classes(sizes):
        yield (
            f"hint: these classes have fewer than a quarter of the images of {most}: "
            f"{', '.join(rare)}; add images of these classes, or use the section "
            "[class_balance] of the recipe; judge a model by its accuracy in each class, not only "
            "by its overall accuracy"
        )
    for axis, side in enumerate(("height", "width")):
        pixels = [file.size[axis] for file in files]
        median = statistics.median(pixels)
        yield f"{side}: {min(pixels)} to {max(pixels)} pixels, median {median:g}"
    formats = Counter(file.format for file in files).most_common()
    yield f"formats: {', '.join(f'{count} {each}' for each, count in formats)}"
    rotated = sum(file.orientation != 1 for file in files)
    if rotated:
        yield f"rotated or mirrored according to EXIF: {rotated} images, which are set upright"
