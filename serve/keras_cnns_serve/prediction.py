"""What one asks for, and what one gets."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .repository import ModelVersion

FEW_LABELS = 64


@dataclass(frozen=True)
class Target:
    """Which version of which model; at most one of version and label, and neither is the newest."""

    name: str
    version: int | None = None
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """Where a request's time went, in seconds."""

    queue: float = 0.0
    decode: float = 0.0
    compute: float = 0.0


@dataclass(frozen=True, slots=True)
class Prediction:
    """An answer, with who gave it and how long it took."""

    source: ModelVersion
    outputs: dict[str, NDArray[Any]]  # each [N, ...]
    timing: Timing


class ScoredLabel(NamedTuple):
    """A label with its probability, 0 to 1."""

    label: str
    probability: float


def best_labels(prediction: Prediction, top_k: int) -> list[list[ScoredLabel]]:
    """The `top_k` likeliest labels of each row of `probabilities`, the likeliest first."""
    labels = prediction.source.labels
    return [
        [ScoredLabel(labels[i], values[i]) for i in _best(row, values, top_k)]
        for row in prediction.outputs["probabilities"]
        for values in [row.tolist()]
    ]


def _best(row: NDArray[Any], values: list[float], top_k: int) -> Iterable[int]:
    if len(values) > FEW_LABELS or math.isnan(sum(values)):
        order: list[int] = np.argsort(-row, kind="stable")[:top_k].tolist()
        return order
    # NumPy gives the interpreter away while it sorts, and for ten numbers to get it back from
    # another thread costs more than to sort.
    return sorted(range(len(values)), key=values.__getitem__, reverse=True)[:top_k]
