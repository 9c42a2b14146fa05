"""Escape cells of CSV files so that no spreadsheet reads them as formulas."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001
_QUOTE = "'"


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
