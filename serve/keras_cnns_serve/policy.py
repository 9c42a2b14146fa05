"""Which versions of a model are served: the latest N, all, or those that are named."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol


class VersionPolicy(Protocol):
    """Chooses among the versions that lie in a model's directory."""

    def choose(self, versions: Collection[int]) -> set[int]:
        """The versions to serve."""


@dataclass(frozen=True)
class Latest:
    """The `count` highest."""

    count: int = 1

    def choose(self, versions: Collection[int]) -> set[int]:
        """The versions to serve."""
        return set(sorted(versions)[-self.count :])


@dataclass(frozen=True)
class All:
    """Every one."""

    def choose(self, versions: Collection[int]) -> set[int]:
        """The versions to serve."""
        return set(versions)


@dataclass(frozen=True)
class Specific:
    """Those named, as far as they exist."""

    versions: frozenset[int]

    def choose(self, versions: Collection[int]) -> set[int]:
        """The versions to serve."""
        return set(self.versions & set(versions))
