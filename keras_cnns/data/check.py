"""A report on a folder of images: what is wrong with it, and what is in it."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from keras_cnns.data.findings import Finding, find_problems, find_split_problems, printable
from keras_cnns.data.image_files import ImageFile, scan_folder
from keras_cnns.data.samples import FRACTIONS
from keras_cnns.data.splits import assign_splits


@dataclass(frozen=True)
class Report:
    """What `check_folder` found."""

    files: int  # images, readable or not
    counts: dict[str, dict[str, int]]  # class, printable -> split -> readable images
    summary: tuple[str, ...]  # balance and sizes, in words
    findings: tuple[Finding, ...]

    @property
    def is_bad(self) -> bool:
        """Whether training would be refused."""
        return any(finding.is_bad and finding.lines for finding in self.findings)


def check_folder(root: str | Path) -> Report:
    """Read every file of a folder of images, and report.

    Raises:
        ValueError: there is no such folder, or no class in it, or its layout is unclear.
    """
    scan = scan_folder(root)
    readable = [file for file in scan.files if not file.problem]
    counts: dict[str, dict[str, int]] = {
        printable(label): {} for label in sorted({file.label for file in scan.files})
    }
    for split, members in assign_splits(readable, FRACTIONS).items():
        for label, count in Counter(file.label for file in members).items():
            counts[printable(label)][split] = count
    findings = (*find_problems(scan), *find_split_problems(readable, FRACTIONS))
    return Report(len(scan.files), counts, tuple(_summarize(readable, counts)), findings)


def _summarize(files: Sequence[ImageFile], counts: dict[str, dict[str, int]]) -> Iterable[str]:
    """Give the balance of the classes and the sizes of the images."""
    if not files:
        return
    if not any(file.split for file in files):
        yield "splits: by content; an image and its copies are always in the same split"
    sizes = {label: sum(sides.values()) for label, sides in counts.items()}
    fewest, most = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
    yield f"balance: {sizes[fewest]} of {fewest} to {sizes[most]} of {most}"
    for axis, side in enumerate(("height", "width")):
        pixels = [file.size[axis] for file in files]
        yield (
            f"{side}: {min(pixels)} to {max(pixels)} pixels, median {statistics.median(pixels):g}"
        )
    formats = Counter(file.format for file in files).most_common()
    yield f"formats: {', '.join(f'{count} {each}' for each, count in formats)}"
    turned = sum(file.orientation != 1 for file in files)
    if turned:
        yield f"rotated or mirrored by EXIF: {turned}; they are set upright"
