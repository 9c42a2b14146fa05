"""Messages to the person who started a command, besides its output."""

import sys

_CLEAR_LINE = "\r\x1b[K"  # a progress bar may be on it


def print_message(message: str) -> None:
    """Write a line to standard error at once."""
    clear = _CLEAR_LINE if sys.stderr.isatty() else ""
    print(f"{clear}{message}", file=sys.stderr, flush=True)
