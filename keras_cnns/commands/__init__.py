"""The commands of `keras-cnns`, one per file; cli.py registers them."""

from collections.abc import Callable, Sequence
from importlib import metadata

ENTRY_POINTS = "keras_cnns.commands"  # the entry-point group of other distributions' commands
SOME_FAILED = 3  # the exit status if some images cannot be read, as in `keras-cnns score`

Main = Callable[[Sequence[str], str], int]  # (arguments, program) -> exit status


def is_installed(name: str) -> bool:
    """Return whether an installed distribution adds this command."""
    return bool(metadata.entry_points(group=ENTRY_POINTS, name=name))


def load_command(name: str) -> Main:
    """Return the `main` function of a command from another installed distribution."""
    (entry_point,) = metadata.entry_points(group=ENTRY_POINTS, name=name)
    main: Main = entry_point.load()
    return main
