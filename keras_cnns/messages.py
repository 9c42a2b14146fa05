"""Messages to the user of a command, separate from the command's output."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_CLEAR_LINE = "\r\x1b[K"  # removes a progress bar from the current line


def print_message(message: str) -> None:
    """Write a line to standard error, and flush it."""
    clear = _CLEAR_LINE if sys.stderr.isatty() else ""
    print(f"{clear}{message}", file=sys.stderr, flush=True)


@contextmanager
def counting(description: str, total: int) -> Iterator[Callable[[int], object]]:
    """Yield a function that counts finished items; show the progress on a terminal.

    Args:
        description: the text before the progress bar.
        total: the number of items.
    """
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
    )
    console = Console(file=sys.stderr)
    with progress.Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(description, total=total)
        yield lambda count: bar.advance(task, count)
