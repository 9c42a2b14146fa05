"""The target of a request, and its prediction."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from keras_cnns_serve.errors import ModelNotFoundError
from keras_cnns_serve.repository.files import ModelVersion

_FEW_LABELS = 64


@dataclass(frozen=True)
class Target:
    """A version of a model, given by number or by label; without either, the newest version."""

    name: str
    version: int | None = None
    label: str | None = None


def target_of(model: str, version: str | None = None, label: str | None = None) -> Target:
    """Return the target of a request; `version` is a number as text, or empty for the newest.

    Raises:
        ModelNotFoundError: the version is not a number.
    """
    if not version:
        return Target(model, label=label)
    if not (version.isascii() and version.isdigit() and len(version) < 20):
        raise ModelNotFoundError(f"a version is an integer, not {version!r:.40}")
    return Target(model, int(version), label)


@dataclass(frozen=True, slots=True)
class Timing:
    """The parts of a request's time, in seconds."""

    queue: float = 0.0
    decode: float = 0.0
    compute: float = 0.0


@dataclass(frozen=True, slots=True)
class Prediction:
    """The outputs of a request, the version that computed them, and the parts of its time."""

    source: ModelVersion
    outputs: dict[str, NDArray[Any]]  # each [N, ...]
    timing: Timing


class ScoredLabel(NamedTuple):
    """A label with its probability, 0 to 1."""

    label: str
    probability: float


def best_labels(prediction: Prediction, top_k: int) -> list[list[ScoredLabel]]:
    """Return the `top_k` most probable labels of each row of `probabilities`, best first."""
    labels = prediction.source.labels
    return [
        [ScoredLabel(labels[i], values[i]) for i in best_indices(row, values, top_k)]
        for row in prediction.outputs["probabilities"]
        for values in [row.tolist()]
    ]


def best_indices(row: NDArray[Any], values: list[float], top_k: int) -> Sequence[int]:
    """Return the indices of the `top_k` highest values, the highest first; NaN comes last.

    Args:
        row: the values [K].
        values: the same values as a list.
        top_k: the maximum number of indices.
    """
    if len(values) > _FEW_LABELS or math.isnan(sum(values)):
        order: list[int] = np.argsort(-row, kind="stable")[:top_k].tolist()
        return order
    # NumPy releases the interpreter's lock while it sorts. For ten numbers, waiting to acquire the
    # lock again takes longer than sorting.
    return sorted(range(len(values)), key=values.__getitem__, reverse=True)[:top_k]
