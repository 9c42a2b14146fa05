"""Find the problems of a folder of images, which `data check` reports."""

import re
import shlex
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from keras_cnns.data.sources.folder.files import CONVERTIBLE, EXTENSIONS, Scan
from keras_cnns.data.sources.folder.image_file import ImageFile
from keras_cnns.data.sources.folder.splits import assign_splits, find_scarce_classes

_SURROGATES = re.compile(r"[\ud800-\udfff]")  # Python's escapes of bytes that are not UTF-8
_MAX_LINES = 10  # maximum number of lines of a finding in an error message


@dataclass(frozen=True)
class Finding:
    """Files or classes with the same problem.

    Attributes:
        title: the name of the problem.
        lines: one line for each file or class; empty if there is no such problem.
        is_error: whether training is refused because of this problem: either the files cannot be
            read, or the metrics would be wrong.
        to_skip: the files that --skip-bad leaves out.
    """

    title: str
    lines: tuple[str, ...]
    is_error: bool
    to_skip: tuple[ImageFile, ...] = ()


def find_problems(scan: Scan) -> tuple[Finding, ...]:
    """Return those problems of a folder's files that do not depend on the splits."""

    def name(each: ImageFile | Path) -> str:
        path = each.path if isinstance(each, ImageFile) else each
        return printable(path.relative_to(scan.root).as_posix())

    files = scan.files
    unreadable = tuple(file for file in files if file.problem and file.format not in CONVERTIBLE)
    to_convert = tuple(file for file in files if file.format in CONVERTIBLE)
    readable = [file for file in files if not file.problem]
    opened = [file for file in readable if file.digest]
    copies = _copies(opened)
    in_splits = [group for group in copies if len({file.split for file in group}) > 1]
    in_classes = [group for group in copies if len({file.label for file in group}) > 1]
    alike = [group for group in copies if len({(file.split, file.label) for file in group}) == 1]
    misnamed = [file for file in opened if file.path.suffix.lower() not in EXTENSIONS[file.format]]

    def equal(groups: Iterable[Sequence[ImageFile]]) -> tuple[str, ...]:
        return tuple(" = ".join(map(name, group)) for group in groups)

    return (
        Finding(
            "unreadable files",
            tuple(f"{name(file)}: {file.problem}" for file in unreadable),
            is_error=True,
            to_skip=unreadable,
        ),
        Finding(
            "images in formats that must be converted",
            _conversion(scan.root, to_convert, name),
            is_error=True,
            to_skip=to_convert,
        ),
        Finding(
            "the same image in different splits",
            equal(in_splits),
            is_error=True,
            to_skip=tuple(file for group in in_splits for file in _copies_to_skip(group)),
        ),
        Finding(
            "the same image in different classes",
            equal(in_classes),
            is_error=True,
            to_skip=tuple(file for group in in_classes for file in group),
        ),
        Finding(
            "class names that differ only in case or Unicode form",
            tuple(_find_similar_labels(readable)),
            is_error=True,
        ),
        Finding(
            "class names that labels.txt cannot contain, or too few classes",
            tuple(_find_label_problems(sorted({file.label for file in readable}))),
            is_error=True,
        ),
        Finding("copies within a class and split", equal(alike), is_error=False),
        Finding(
            "wrong extensions",
            tuple(f"{name(file)}: it is {file.format}" for file in misnamed),
            is_error=False,
        ),
        Finding(
            "images outside of the class folders, which are not used",
            tuple(map(name, scan.outside)),
            is_error=False,
        ),
        Finding("other files, which are ignored", tuple(map(name, scan.others)), is_error=False),
        Finding(
            "links to folders, which are not followed", tuple(map(name, scan.links)), is_error=False
        ),
    )


def find_split_problems(files: Sequence[ImageFile], wanted: Iterable[str]) -> tuple[Finding, ...]:
    """Return the problems of the splits of readable files; `assign_splits` describes `wanted`."""
    wanted = tuple(wanted)
    minimum, scarce = find_scarce_classes(files, wanted)
    splits = assign_splits(files, wanted)
    labels = {split: {file.label for file in members} for split, members in splits.items()}
    all_labels = sorted({file.label for file in files})
    untrained = [label for label in all_labels if label not in labels["train"]]
    absent = [
        f"{printable(label)}: none in {split}"
        for split in labels
        for label in all_labels
        if split != "train" and label not in labels[split]
    ]
    return (
        Finding(
            "classes with too few images for all splits",
            tuple(
                f"{printable(label)}: {count} different images; at least {minimum} are needed, one "
                "for each split (or put the images into split folders)"
                for label, count in scarce.items()
            ),
            is_error=True,
        ),
        Finding("classes without training images", tuple(map(printable, untrained)), is_error=True),
        Finding("classes without an image in a split", tuple(absent), is_error=False),
    )


def _find_label_problems(labels: Sequence[str]) -> list[str]:
    """Return the problems of class names, as sentences."""
    problems = [
        f"the class folder {label!r} needs another name: one line of UTF-8 text without spaces "
        "before or after it"
        for label in labels
        if label.splitlines() != [label] or label != label.strip() or _SURROGATES.search(label)
    ]
    if len(labels) < 2:
        problems.append(f"there is only the class {labels[0]!r}" if labels else "there is no class")
        problems[-1] += "; at least 2 folders with images in them are needed"
    return problems


def _find_similar_labels(files: Iterable[ImageFile]) -> Iterable[str]:
    """Yield a line for each group of class names that differ only in case or Unicode form."""
    folders: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for file in files:
        key = unicodedata.normalize("NFC", file.label).casefold()
        folders[key][file.label].add(file.split or "")
    for names in folders.values():
        forms = {unicodedata.normalize("NFC", name) for name in names}
        in_every = len(forms) == len(names) and len(set(map(frozenset, names.values()))) == 1
        # `a` and `A` may be two different classes if each split has both.
        if len(names) > 1 and not in_every:
            spelled = " and ".join(
                f"{name!a}{f' in {split}' if split else ''}"
                for name, splits in sorted(names.items())
                for split in sorted(splits)
            )
            yield f"{spelled}: give them one name if they are one class, or else distinct names"


def describe(finding: Finding) -> str:
    """Return a finding as a part of an error message."""
    more = len(finding.lines) - _MAX_LINES
    lines = "; ".join(finding.lines[:_MAX_LINES]) + (f"; and {more} more" if more > 0 else "")
    return f"{finding.title} ({len(finding.lines)}): {lines}"


def printable(name: str) -> str:
    """Return the name of a file or class, with line ends and bytes that are not text escaped."""
    return name if name.isprintable() else repr(name)[1:-1]


def _conversion(
    root: Path, files: Sequence[ImageFile], name: Callable[[ImageFile], str]
) -> tuple[str, ...]:
    """Return a line for each file; the first line has a command that converts all files."""
    lines = [f"{name(file)}: {file.format}" for file in files]
    if not lines:
        return ()
    patterns = {
        f"*{file.path.suffix}"
        if file.path.suffix.lower() in CONVERTIBLE[file.format]
        else file.path.name
        for file in files
    }
    tests = " -o ".join(f"-name {shlex.quote(pattern)}" for pattern in sorted(patterns))
    command = f"find {shlex.quote(str(root))} \\( {tests} \\) "
    command += "-exec magick mogrify -format jpg {} +"
    lines[0] += f" (convert the files with ImageMagick: `{command}`, then move the originals away)"
    return tuple(lines)


def _copies(files: Iterable[ImageFile]) -> list[list[ImageFile]]:
    """Return the groups of two or more files with the same bytes."""
    groups = defaultdict(list)
    for file in files:
        groups[file.digest].append(file)
    return [group for group in groups.values() if len(group) > 1]


def _copies_to_skip(group: Sequence[ImageFile]) -> list[ImageFile]:
    """Return the copies to skip: those that are not in the last of their splits.

    The order of the splits is train, validation, test.
    """
    order = ("train", "validation", "test")
    last = max((file.split or "train" for file in group), key=order.index)
    return [file for file in group if (file.split or "train") != last]
