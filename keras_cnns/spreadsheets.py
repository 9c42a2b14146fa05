"""Cells of CSV files that no spreadsheet takes for a formula."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001
_QUOTE = "'"


def escape_cell(text: str) -> str:
    """Return a text with an apostrophe in front of it if a spreadsheet might calculate it.

    A spreadsheet shows a cell that begins with `=`, `+`, `-`, `@` or a control character as the
    result of a formula, and the author of such a file name decides which one (OWASP, "CSV
    Injection"). A text that begins with an apostrophe gets another one, so that `unescape_cell`
    returns every text.
    """
    return f"{_QUOTE}{text}" if text.startswith((*_FORMULA, _QUOTE)) else text


def unescape_cell(cell: str) -> str:
    """Return the text of a cell that `escape_cell` wrote."""
    return cell.removeprefix(_QUOTE)
