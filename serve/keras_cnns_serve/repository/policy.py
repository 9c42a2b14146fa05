"""Which versions of a model are served: the latest N, all, or those that are named."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol


class VersionPolicy(Protocol):
    """Chooses among the versions that lie in a model's directory."""

    def choose(self, versions: Collection[int]) -> set[int]:
        """Return the versions to serve."""


@dataclass(frozen=True)
class Latest:
    """The `count` highest."""

    count: int = 1

    def choose(self, versions: Collection[int]) -> set[int]:
        """Return the versions to serve."""
        return set(sorted(versions)[-self.count :])


@dataclass(frozen=True)
class All:
    """Every one."""

    def choose(self, versions: Collection[int]) -> set[int]:
        """Return the versions to serve."""
        return set(versions)


@dataclass(frozen=True)
class Specific:
    """Those named, as far as they exist."""

    versions: frozenset[int]

    def choose(self, versions: Collection[int]) -> set[int]:
        """Return the versions to serve."""
        return set(self.versions & set(versions))


def parse_policy(text: str) -> VersionPolicy:
    """Parse `latest`, `latest:2`, `all` or `3,4`.

    Raises:
        ValueError: it is none of these.
    """
    if text == "all":
        return All()
    if match := re.fullmatch(r"latest(?::([1-9]\d{0,8}))?", text):
        return Latest(int(match[1] or 1))
    if re.fullmatch(r"[1-9]\d{0,18}(,[1-9]\d{0,18})*", text):
        return Specific(frozenset(map(int, text.split(","))))
    raise ValueError(f"{text[:40]!r} is no choice of versions: latest:2, all or 3,4")
