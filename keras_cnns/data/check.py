"""What is wrong with a folder of images, and what is in it."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from keras_cnns.data.folder import SHARES, assign_splits, find_label_problems
from keras_cnns.data.image_files import ImageFile, scan_folder

EXTENSIONS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
}


@dataclass(frozen=True)
class Finding:
    """Files with one thing the matter."""

    title: str
    lines: tuple[str, ...]  # one for each
    is_bad: bool  # training is refused, or its figures would be false


@dataclass(frozen=True)
class Report:
    """What `check_folder` found."""

    files: int
    counts: dict[str, dict[str, int]]  # class, printable -> split -> readable images
    summary: tuple[str, ...]  # balance and sizes, in words
    findings: tuple[Finding, ...]

    @property
    def is_bad(self) -> bool:
        """Whether anything stands against training on it."""
        return any(finding.is_bad and finding.lines for finding in self.findings)


def check_folder(root: str | Path) -> Report:
    """Read every file of a folder of images, and report.

    Raises:
        ValueError: there is no such folder, or no class in it.
    """
    root = Path(root)
    files = scan_folder(root)
    readable = [file for file in files if not file.problem]
    splits = assign_splits(readable, SHARES)
    labels = sorted({file.label for file in files})
    counts: dict[str, dict[str, int]] = {printable(label): {} for label in labels}
    for split, members in splits.items():
        for label, count in Counter(file.label for file in members).items():
            counts[printable(label)][split] = count

    def name(file: ImageFile) -> str:
        return printable(file.path.relative_to(root).as_posix())

    copies = _copies(readable)
    findings = (
        Finding(
            "unreadable files",
            tuple(f"{name(file)}: {file.problem}" for file in files if file.problem),
            is_bad=True,
        ),
        Finding(
            "the same image in different splits",
            _describe(copies, lambda file: file.split, name),
            is_bad=True,
        ),
        Finding(
            "the same image in different classes",
            _describe(copies, lambda file: file.label, name),
            is_bad=True,
        ),
        Finding(
            "copies within a class and split",
            tuple(
                " = ".join(map(name, group))
                for group in copies
                if len({(file.split, file.label) for file in group}) == 1
            ),
            is_bad=False,
        ),
        Finding(
            "wrong extensions",
            tuple(
                f"{name(file)}: it is {file.format}"
                for file in readable
                if file.path.suffix.lower() not in EXTENSIONS[file.format]
            ),
            is_bad=False,
        ),
        Finding(
            "classes that cannot be told apart or written down",
            tuple(find_label_problems(sorted({file.label for file in readable}))),
            is_bad=True,
        ),
        Finding(
            "classes without training images",
            tuple(label for label, sides in counts.items() if not sides.get("train")),
            is_bad=True,
        ),
    )
    return Report(len(files), counts, tuple(_summarize(readable, counts)), findings)


def printable(name: str) -> str:
    """Return a file's name, with what cannot be printed as escapes: line ends, bytes of no text."""
    return name if name.isprintable() else repr(name)[1:-1]


def _copies(files: Iterable[ImageFile]) -> list[list[ImageFile]]:
    """Return the groups of files with the same bytes, of two and more."""
    groups = defaultdict(list)
    for file in files:
        groups[file.digest].append(file)
    return [group for group in groups.values() if len(group) > 1]


def _describe(
    copies: Sequence[Sequence[ImageFile]],
    side: Callable[[ImageFile], str | None],
    name: Callable[[ImageFile], str],
) -> tuple[str, ...]:
    """Return a line for each group of copies that lie on more than one side."""
    return tuple(" = ".join(map(name, group)) for group in copies if len(set(map(side, group))) > 1)


def _summarize(files: Sequence[ImageFile], counts: dict[str, dict[str, int]]) -> Iterable[str]:
    """Give the balance of the classes and the sizes of the images."""
    if not files:
        return
    if not any(file.split for file in files):
        yield "splits: by content; a file and its copies always fall on the same side"
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
        yield f"turned by EXIF: {turned}; they are set upright"
