"""Read and write the CSV files of a run directory."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_cnns.files import ENCODING
from keras_cnns.runs.renamed_metrics import current_name
from keras_cnns.spreadsheets import format_csv

Row = dict[str, float]
Columns = dict[str, np.ndarray]  # name -> float [rows], NaN where there is no value


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file without their empty values; no rows if there is no file.

    If a crash has left an incomplete row, it is skipped. Columns that an earlier version wrote have
    their current names in the result.

    Raises:
        ValueError: a value is not a number.
        csv.Error: the file is not CSV.
    """
    if not path.is_file():
        return []
    with path.open(newline="", encoding=ENCODING) as file:
        rows = [row for row in csv.DictReader(file) if None not in row and None not in row.values()]
    return [
        {current_name(name): float(value) for name, value in row.items() if value} for row in rows
    ]


def read_times(path: Path) -> list[Row]:
    """Return the rows that `StepTime` wrote, in the order of their epochs.

    If an interrupted epoch was repeated, it has several rows, of which the last one is returned.
    """
    latest = {row["epoch"]: row for row in read_rows(path)}
    return [latest[epoch] for epoch in sorted(latest)]


def to_columns(rows: Sequence[Row]) -> Columns:
    """Return rows as columns."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}


def format_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, header: bool) -> str:
    """Return rows as lines of CSV; missing values are empty, and surplus values are left out."""
    cells = [[row.get(column, "") for column in columns] for row in rows]
    return format_csv([columns, *cells] if header else cells)
