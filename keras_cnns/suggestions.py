"""Lookups by name; their errors list the known names and suggest the most similar name."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

_Row = TypeVar("_Row")


def find(name: str, table: Mapping[str, _Row], kind: str) -> _Row:
    """Return a row of a table.

    Args:
        name: a key of the table.
        table: name -> row.
        kind: a noun for a row in the message, such as "model".

    Raises:
        ValueError: there is no such row; the message suggests the most similar name and lists all
            names.
    """
    if name not in table:
        hint = did_you_mean(name, table)
        raise ValueError(f"there is no {kind} {name!r}{hint} (there are {', '.join(table)})")
    return table[name]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint such as "; did you mean 'resnet50'?", or "" if no known name is similar."""
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
