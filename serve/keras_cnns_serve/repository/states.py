"""The states of versions, and the versions that answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Generic, TypeVar

Served = TypeVar("Served")  # a version that answers requests


class State(StrEnum):
    """TensorFlow Serving's states of a version."""

    START = "START"
    LOADING = "LOADING"
    AVAILABLE = "AVAILABLE"
    UNLOADING = "UNLOADING"
    END = "END"


@dataclass(frozen=True)
class VersionStatus:
    """The state of a version, and the reason if it does not answer."""

    version: int
    state: State
    code: str = "OK"  # of google.rpc.Code
    message: str = ""


@dataclass(frozen=True)
class Model(Generic[Served]):
    """The versions of a model that answer, in ascending order."""

    versions: Mapping[int, Served]
    labels: Mapping[str, int]

    @cached_property
    def newest(self) -> Served:
        """Return the version that answers a request without a version."""
        return self.versions[max(self.versions)]
