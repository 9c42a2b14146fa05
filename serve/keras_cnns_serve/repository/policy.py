"""Policies for the versions that are served: the latest N, all, or specific ones."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol


class VersionPolicy(Protocol):
    """Choose among the versions in a model's directory."""

    def choose(self, versions: Collection[int]) -> set[int]:
        """Return the versions to serve."""


@dataclass(frozen=True)
class Latest:
    """Serve the `count` highest versions."""

    count: int = 1

    def choose(self, versions: Collection[int]) -> set[int]:
        """Return the versions to serve."""
        return set(sorted(versions)[-self.count :])


@dataclass(frozen=True)
class All:
    """Serve all versions."""

    def choose(self, versions: Collection[int]) -> set[int]:
        """Return the versions to serve."""
        return set(versions)


@dataclass(frozen=True)
class Specific:
    """Serve these versions, if they exist."""

    versions: frozenset[int]

    def choose(self, versions: Collection[int]) -> set[int]:
        """Return the versions to serve."""
        return set(self.versions & set(versions))


def parse_policy(text: str) -> VersionPolicy:
    """Return the policy that a text specifies: `latest`, `latest:2`, `all` or `3,4`.

    Raises:
        ValueError: the text is none of these.
    """
    if text == "all":
        return All()
    if match := re.fullmatch(r"latest(?::([1-9]\d{0,8}))?", text):
        return Latest(int(match[1] or 1))
    if re.fullmatch(r"[1-9]\d{0,18}(,[1-9]\d{0,18})*", text):
        return Specific(frozenset(map(int, text.split(","))))
    raise ValueError(f"{text[:40]!r} is not a choice of versions; write latest:2, all or 3,4")
