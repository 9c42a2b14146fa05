"""Corrections of a folder's labels: a CSV file that changes labels or excludes images.

The header names the columns. `file` is the path of an image, absolute or relative to the folder.
`label` is its new class. `exclude` is `yes` if the image is not used. The CSV file may also have
the columns of labels.csv, which `keras-cnns data review` writes, so that labels.csv can be edited
and used as a corrections file.
"""

import csv
import functools
import io
import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from keras_cnns.data.sources.folder.findings import printable
from keras_cnns.data.sources.folder.layout import FoundFile
from keras_cnns.files import read_text
from keras_cnns.recipes import MULTI_LABEL
from keras_cnns.spreadsheets import unescape_cell
from keras_cnns.suggestions import did_you_mean

FILE, LABEL, EXCLUDE = "file", "label", "exclude"
# Further columns of labels.csv.
_REVIEW_COLUMNS = (
    *("split", "index", "suggested_label", "label_probability", "suggested_probability"),
    *("rank", "is_issue"),
)
YES = "yes"
_EXCLUDE_VALUES = {YES: True, "true": True, "1": True, "x": True, EXCLUDE: True}
_EXCLUDE_VALUES |= {"": False, "no": False, "false": False, "0": False}
_DELIMITERS = (",", ";", "\t")  # spreadsheets in some languages write semicolons
_LABEL_SEPARATORS = (",", ";", "|", "+")
_MAX_PROBLEMS = 10  # maximum number of lines in an error message


@dataclass(frozen=True)
class Corrections:
    """The effective corrections of a folder's labels.

    Attributes:
        text: the CSV file's text, which is copied into the run directory.
        labels: file -> its new label, which differs from the name of its class folder.
        excluded: the files that are not used.
    """

    text: str
    labels: dict[Path, str]
    excluded: frozenset[Path]

    def apply(self, files: Iterable[FoundFile]) -> tuple[FoundFile, ...]:
        """Return the files that are not excluded, with their new labels."""
        return tuple(
            file._replace(label=self.labels.get(file.path, file.label))
            for file in files
            if file.path not in self.excluded
        )

    def describe(self) -> str:
        """Return as text how many labels are changed and how many images are excluded."""
        labels, excluded = len(self.labels), len(self.excluded)
        return (
            f"{labels} {'label' if labels == 1 else 'labels'} changed, "
            f"{excluded} {'image' if excluded == 1 else 'images'} excluded"
        )


def read_corrections(path: str | Path, root: str | Path, files: Sequence[FoundFile]) -> Corrections:
    """Read the corrections of a folder.

    Args:
        path: the CSV file.
        root: the folder.
        files: all files of the folder, with the names of their class folders as labels.

    Raises:
        ValueError: the file cannot be read, a column or a row is wrong, or two rows name the same
            file; the message names the lines.
    """
    try:
        text = read_text(path, errors="surrogateescape")  # of names that are not UTF-8
    except OSError as error:
        raise ValueError(f"data.corrections: cannot read {path}: {error.strerror}") from None
    rows = _read_rows(path, text)
    reader = _RowReader(root, files)
    problems = []
    for line, row in rows:
        try:
            reader.add(line, row)
        except ValueError as error:
            problems.append(f"line {line}: {error}")
    if problems:
        read_text(path)  # a file in another encoding is the reason for the problems
        more = len(problems) - _MAX_PROBLEMS
        shown = "; ".join(problems[:_MAX_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")
        raise ValueError(f"{path}: {shown}")
    own = {file.path: file.label for file in files}
    return Corrections(
        text,
        {file: label for file, label in reader.labels.items() if label and label != own[file]},
        frozenset(file for file, label in reader.labels.items() if label is None),
    )


def _read_rows(path: str | Path, text: str) -> list[tuple[int, dict[str, str]]]:
    """Return for each row the number of its first line, and a dict from column to cell."""
    first_line = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=first_line.count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    rows: list[tuple[int, dict[str, str]]] = []
    line = 1
    try:
        columns = [cell.strip().lower() for cell in next(reader, [])]
        _check_columns(path, columns, first_line)
        line = reader.line_num + 1
        for cells in reader:
            if any(cell.strip() for cell in cells):
                if len(cells) != len(columns):
                    hint = f"; {MULTI_LABEL}" if len(cells) > len(columns) else ""
                    raise ValueError(
                        f"{path}: line {line} has {len(cells)} cells, but the header has "
                        f"{len(columns)}; a name that contains {delimiter!r} needs double quotes "
                        f"around it{hint}"
                    )
                rows.append((line, dict(zip(columns, cells, strict=True))))
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path}: line {line}: {error}") from None
    return rows


def _check_columns(path: str | Path, columns: Sequence[str], first_line: str) -> None:
    known = (FILE, LABEL, EXCLUDE, *_REVIEW_COLUMNS)
    expected = f"the first line must name the column {FILE}, and {LABEL} or {EXCLUDE} or both"
    if FILE not in columns or not {LABEL, EXCLUDE} & set(columns):
        raise ValueError(f"{path}: line 1 is {first_line[:80]!r}; {expected}")
    for column in columns:
        if column not in known:
            hint = did_you_mean(column, known)
            raise ValueError(f"{path}: line 1 has the unknown column {column!r}{hint}; {expected}")
        if columns.count(column) > 1:
            hint = f"; {MULTI_LABEL}" if column == LABEL else ""
            raise ValueError(f"{path}: line 1 has the column {column!r} more than once{hint}")


class _RowReader:
    """Check the rows of a CSV file, and collect the new label of each file.

    Attributes:
        labels: file -> its new label, or None if the file is excluded.
    """

    def __init__(self, root: str | Path, files: Sequence[FoundFile]) -> None:
        self._root = root
        self._own = {file.path: file.label for file in files}
        self._by_name = {
            name: file.path
            for file in files
            for name in (
                os.path.abspath(file.path),  # noqa: PTH100 - keeps symbolic links
                file.path.relative_to(root).as_posix(),
            )
        }
        self._known_labels = sorted(set(self._own.values()))
        self._lines: dict[Path, int] = {}
        self.labels: dict[Path, str | None] = {}

    def add(self, line: int, row: dict[str, str]) -> None:
        """Add a row.

        Raises:
            ValueError: the row is wrong, or another row names the same file.
        """
        file = self._find_file(row[FILE])
        label = self._find_label(row[LABEL]) if row.get(LABEL, "").strip() else ""
        exclude = _parse_exclude(row.get(EXCLUDE, ""))
        if not label and not exclude:
            raise ValueError(
                f"{row[FILE]!r} has neither a label nor {YES!r} in the column {EXCLUDE!r}"
            )
        if exclude and label and label != self._own[file]:
            raise ValueError(
                f"{row[FILE]!r} has the new label {label!r}, and is excluded too; keep only one "
                "of the two"
            )
        chosen = None if exclude else label
        if file in self.labels:
            verb = "repeats" if self.labels[file] == chosen else "contradicts"
            raise ValueError(
                f"it {verb} line {self._lines[file]} about {row[FILE]!r}; keep one of the two lines"
            )
        self.labels[file], self._lines[file] = chosen, line

    def _find_file(self, cell: str) -> Path:
        for name in (cell, unescape_cell(cell), os.path.normpath(unescape_cell(cell.strip()))):
            if name in self._by_name:
                return self._by_name[name]
        found = self._composed.get(_compose(unescape_cell(cell.strip())))
        if found is None:
            same_name = self._by_last_part.get(Path(cell).name)
            raise ValueError(
                f"there is no file {cell!r} in {self._root}; "
                + (
                    f"did you mean {same_name!r}?"
                    if same_name
                    else "write its path relative to this folder, such as class/name.jpg"
                )
            )
        return found

    @functools.cached_property
    def _composed(self) -> dict[str, Path]:
        """Return name -> file; the names are in Unicode's composed form, as on most systems."""
        return {_compose(name): file for name, file in self._by_name.items()}

    @functools.cached_property
    def _by_last_part(self) -> dict[str, str]:
        return {file.name: file.relative_to(self._root).as_posix() for file in self._own}

    def _find_label(self, cell: str) -> str:
        for label in (cell, unescape_cell(cell), unescape_cell(cell.strip())):
            if label in self._known_labels:
                return label
        for separator in _LABEL_SEPARATORS:
            parts = [part.strip() for part in cell.split(separator)]
            if len(parts) > 1 and set(parts) <= set(self._known_labels):
                raise ValueError(f"{cell!r} contains {len(parts)} labels; {MULTI_LABEL}")
        classes = ", ".join(map(printable, self._known_labels))
        raise ValueError(
            f"there is no class {cell!r}{did_you_mean(cell, self._known_labels)} (the classes are "
            f"{classes}); for an image of another class, write {YES!r} in the column {EXCLUDE!r}"
        )


def _compose(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _parse_exclude(cell: str) -> bool:
    value = _EXCLUDE_VALUES.get(cell.strip().lower())
    if value is None:
        raise ValueError(f"{EXCLUDE} is {cell!r}; write {YES!r}, or leave the cell empty")
    return value
