"""What a data set is to the pipeline: labels, and for each split samples to be had by number."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

Pair = tuple[Any, Any]  # image uint8 [h, w, c], label int64 []


@dataclass(frozen=True)
class Samples:
    """The labelled images of a split: as many as `count`, each read by its number."""

    count: int
    read: Callable[[tf.Tensor], Pair]

    def subset(self, numbers: np.ndarray) -> "Samples":
        """Return some of the samples, in this order."""
        chosen = tf.constant(numbers, tf.int64)
        return Samples(len(numbers), lambda number: self.read(chosen[number]))


@dataclass(frozen=True)
class Stream:
    """The labelled images of a split too large for memory, in files that are read in order."""

    count: int
    encoded: Callable[
        [tf.Tensor | None], tf.data.Dataset
    ]  # order's key [2] or None -> (bytes, label)


def slice_split(counts: Mapping[str, int], split: str) -> tuple[str, np.ndarray]:
    """Return the name of a split and the numbers of its samples that a slicing names.

    Args:
        counts: samples of each split.
        split: a split's name, or TFDS' slicing of one, as `train[:80%]`.

    Raises:
        ValueError: there is no such split, or nothing in it.
    """
    try:
        sizes = {name: SimpleNamespace(num_examples=count) for name, count in counts.items()}
        parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(sizes)
    except (ValueError, KeyError, AssertionError) as error:
        raise unknown_split(split, counts) from error
    names = {part.splitname for part in parts}
    ranges = [
        np.arange(*slice(part.from_, part.to).indices(counts[part.splitname])) for part in parts
    ]
    numbers = np.concatenate(ranges)
    if len(names) != 1 or not len(numbers):
        raise unknown_split(split, counts)
    return names.pop(), numbers


def unknown_split(split: str, names: Iterable[str]) -> ValueError:
    """Return the error that says which splits there are."""
    return ValueError(f"there is no split {split!r}, or nothing in it: there is {', '.join(names)}")
