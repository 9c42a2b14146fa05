"""What a data set is to the pipeline: labels, and for each split samples to be had by number."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds

Pair = tuple[Any, Any]  # image uint8 [h, w, c], label int64 []


@dataclass(frozen=True)
class Samples:
    """The labelled images of a split: as many as `count`, each read by its number."""

    count: int
    read: Callable[[tf.Tensor], Pair]

    def part(self, start: int, stop: int) -> "Samples":
        """Return the samples from one number to before another."""
        return Samples(stop - start, lambda number: self.read(number + start))


@dataclass(frozen=True)
class Stream:
    """The labelled images of a split too large for memory, in files that are read in order."""

    count: int
    encoded: Callable[
        [tf.Tensor | None], tf.data.Dataset
    ]  # order's key [2] or None -> (bytes, label)


def slice_split(counts: Mapping[str, int], split: str) -> tuple[str, int, int]:
    """Return the name of a split, and from where to where a slicing takes its samples.

    Args:
        counts: samples of each split.
        split: a split's name, or TFDS' slicing of one, as `train[:80%]`.

    Raises:
        ValueError: there is no such split, or nothing in it.
    """
    try:
        sizes = {name: SimpleNamespace(num_examples=count) for name, count in counts.items()}
        (part,) = tfds.core.ReadInstruction.from_spec(split).to_absolute(sizes)
    except (ValueError, KeyError, AssertionError) as error:
        raise unknown_split(split, counts) from error
    start, stop, _ = slice(part.from_, part.to).indices(counts[part.splitname])
    if start >= stop:
        raise unknown_split(split, counts)
    return part.splitname, start, stop


def unknown_split(split: str, names: Iterable[str]) -> ValueError:
    """Return the error that says which splits there are."""
    return ValueError(f"there is no split {split!r}, or nothing in it: there is {', '.join(names)}")
