"""Lookups by name whose errors list the known names and suggest the one that was meant."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

Row = TypeVar("Row")


def find(name: str, table: Mapping[str, Row], kind: str) -> Row:
    """Return the row of a table that has this name.

    Args:
        name: a key of the table.
        table: name -> row.
        kind: what the rows are, for the message, such as "model".

    Raises:
        ValueError: there is no such row; the message suggests the nearest and lists all.
    """
    if name not in table:
        hint = did_you_mean(name, table)
        raise ValueError(f"there is no {kind} {name!r}{hint} (there are {', '.join(table)})")
    return table[name]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `"; did you mean 'resnet50'?"` for a name near a known one, else nothing."""
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
