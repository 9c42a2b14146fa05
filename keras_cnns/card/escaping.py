"""Escape text for Markdown and YAML, and write values as YAML."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# Characters that begin an emphasis, link, tag, table cell or formula in Markdown, and characters
# that make GitHub turn a word into a link.
_MARKDOWN = re.compile(r"([\\`*_\[\]<>#|~&$!]|(?<=www)\.|:(?=//))", re.IGNORECASE)


def escape_markdown(text: str) -> str:
    """Return one line of Markdown that shows a text literally, even in a cell or a heading."""
    shown = text if text.isprintable() else repr(text)[1:-1]
    # A backslash does not prevent GitHub from turning a name after "@" into a link.
    return _MARKDOWN.sub(r"\\\1", shown).replace("@", "&#64;")


def fence(text: str, language: str = "") -> str:
    """Return a code block whose fence is longer than any sequence of backticks in the text."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}{language}\n{text.rstrip()}\n{ticks}"


def format_yaml(value: Mapping[str, Any]) -> str:
    """Return a mapping as YAML in block style, with strings quoted as in JSON.

    Args:
        value: the mapping. Its keys need no quotes; its values are strings, numbers, mappings, and
            lists of these.
    """
    return "\n".join(_lines(value)) + "\n"


def _lines(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, entry in value.items():
            if isinstance(entry, Mapping | list | tuple):
                yield f"{key}:"
                yield from (f"  {line}" for line in _lines(entry))
            else:
                yield f"{key}: {_scalar(entry)}"
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for entry in value:
            first, *rest = _lines(entry)
            yield f"- {first}"
            yield from (f"  {line}" for line in rest)
    else:
        yield _scalar(value)


def _scalar(value: Any) -> str:
    if isinstance(value, str) and not value.isprintable():
        value = repr(value)[1:-1]
    return json.dumps(value, ensure_ascii=False)
