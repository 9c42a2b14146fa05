"""What a training tells a person, beside the lines of its progress."""

import sys


def say(message: str) -> None:
    """Write a line to standard error at once."""
    print(message, file=sys.stderr, flush=True)
