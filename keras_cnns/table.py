"""Print tables on the terminal."""

import sys
from collections.abc import Iterable, Sequence


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[int]
) -> None:
    """Print rows under the names of their columns.

    Args:
        columns: the names of the columns.
        rows: the cells of each row.
        numbers: indices of the columns with numbers, which are right-aligned.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for index, column in enumerate(columns):
        right = index in numbers
        table.add_column(column, justify="right" if right else "left", no_wrap=right or not index)
    for row in rows:
        table.add_row(*row)
    # A pipe has no width, and its reader expects one line per row. Names are not markup.
    width = None if sys.stdout.isatty() else 160
    Console(width=width, markup=False, emoji=False).print(table)
