"""What a data set is to the pipeline: for each split, labelled images that are read by index."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds

Pair = tuple[Any, Any]  # image uint8 [h, w, c], label int64 []
# A split that a data set lacks is taken out of its training split: the images whose content's
# fraction is in this range.
FRACTIONS = {"validation": (0.0, 0.1), "test": (0.1, 0.2)}


@dataclass(frozen=True)
class Samples:
    """The labelled images of a split: as many as `count`, each read by its number.

    If the source had to decode them all and kept them, `decoded` returns preprocessed images and
    their labels by their numbers: [N] -> uint8 [N, H, W, C], int64 [N]. Then nothing needs to be
    read again.

    If `read` checks the images, it fails for one that cannot be used, and `refuse` then raises the
    error that lists all of those.
    """

    count: int
    read: Callable[[tf.Tensor], Pair]
    decoded: Callable[[tf.Tensor], Pair] | None = None
    refuse: Callable[[], None] | None = None

    def part(self, start: int, stop: int) -> "Samples":
        """Return the samples from one number to before another."""
        read, decoded = self.read, self.decoded
        return Samples(
            stop - start,
            lambda number: read(number + start),
            decoded and (lambda numbers: decoded(numbers + start)),
            self.refuse,
        )


@dataclass(frozen=True)
class Stream:
    """The labelled images of a split too large for memory, in files that are read in order."""

    count: int
    # The key [2] of an epoch's order or None, and the index of the first image in that order ->
    # (encoded image, label) from there on.
    encoded: Callable[[tf.Tensor | None, tf.Tensor], tf.data.Dataset]


def content_fraction(digest: str) -> float:
    """Return a number in [0, 1) from a SHA-256 of an image's content, in hexadecimal digits."""
    return int(digest[:8], 16) / 2**32


def split_by_fraction(fraction: float, taken: Iterable[str]) -> str:
    """Return the split of an image by its content's fraction.

    Args:
        fraction: see `content_fraction`.
        taken: the splits of `FRACTIONS` that are taken out of the training split.
    """
    sides = (name for name in taken if FRACTIONS[name][0] <= fraction < FRACTIONS[name][1])
    return next(sides, "train")


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
