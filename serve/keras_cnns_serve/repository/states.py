"""The states of versions, and the versions that are served."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Generic, TypeVar

Served = TypeVar("Served")  # a version that is loaded


class State(StrEnum):
    """The states of a version, with TensorFlow Serving's names."""

    START = "START"
    LOADING = "LOADING"
    AVAILABLE = "AVAILABLE"
    UNLOADING = "UNLOADING"
    END = "END"


@dataclass(frozen=True)
class VersionStatus:
    """The state of a version, and the reason if it is not served.

    If a preferred format of an available version was rejected, the message has the reason.
    """

    version: int
    state: State
    code: str = "OK"  # a name in google.rpc.Code
    message: str = ""


@dataclass(frozen=True)
class Model(Generic[Served]):
    """The served versions of a model, in ascending order, and its labels."""

    versions: Mapping[int, Served]
    labels: Mapping[str, int]

    @cached_property
    def newest(self) -> Served:
        """Return the highest version, which answers requests that do not specify a version."""
        return self.versions[max(self.versions)]
