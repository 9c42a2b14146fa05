"""Write CSV, and escape cells so that no spreadsheet reads them as formulas."""

import csv
import io
from collections.abc import Iterable

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001
_QUOTE = "'"


def format_csv(rows: Iterable[Iterable[object]]) -> str:
    """Return rows as lines of CSV, each of which ends with "\\n"."""
    text = io.StringIO()
    plain = csv.writer(text, lineterminator="\n")
    quoting = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:
        cells = list(row)
        # Before Python 3.13, `csv` writes a carriage return, which is possible in a file name,
        # without quotes, and cannot read it again.
        has_return = any("\r" in cell for cell in cells if isinstance(cell, str))
        (quoting if has_return else plain).writerow(cells)
    return text.getvalue()


def escape_cell(text: str) -> str:
    """Return a text, preceded by an apostrophe if a spreadsheet might read it as a formula.

    A spreadsheet evaluates a cell as a formula if it begins with `=`, `+`, `-`, `@` or a control
    character. The author of a file name could choose this formula (OWASP, "CSV Injection"). A text
    that begins with an apostrophe gets another one, so that `unescape_cell` can restore every text.
    """
    return f"{_QUOTE}{text}" if text.startswith((*_FORMULA, _QUOTE)) else text


def unescape_cell(cell: str) -> str:
    """Return the text of a cell that `escape_cell` wrote."""
    return cell.removeprefix(_QUOTE)
