"""Limits of what a client may claim or take time for."""

import math
from collections.abc import Sequence
from typing import Any

from keras_cnns_serve.errors import InputTooLargeError, InvalidInputError

MAX_RANK = 8
IN_THREAD_BYTES = 50_000  # values of this length take longer to parse than a thread to wake
BODY_SECONDS = 20  # for a body, and more for what has come of it at this rate:
SLOWEST_RATE = 10_000  # bytes a second


def checked_shape(
    sizes: Sequence[Any], item_bytes: int, name: str, max_bytes: int = 2**40
) -> tuple[int, ...]:
    """Return the sizes as a shape that an array can have.

    Args:
        sizes: as the client sent them.
        item_bytes: of one element.
        name: the tensor's, for errors.
        max_bytes: the most that its elements may take.

    Raises:
        InvalidInputError: a size is not an integer of at least 0, or there are too many.
        InputTooLargeError: the elements take more than `max_bytes`.
    """
    # Exactly int: True is one to Python.
    if len(sizes) > MAX_RANK or not all(type(size) is int and size >= 0 for size in sizes):
        raise InvalidInputError(
            f"{name} has the shape {list(sizes[:9])!s:.80}; a shape has at most {MAX_RANK} "
            "sizes, each an integer of at least 0"
        )
    # An empty array has strides, too: they must not overflow.
    if math.prod(size or 1 for size in sizes) * item_bytes > max_bytes:
        raise InputTooLargeError(
            f"{name} of shape {list(sizes)!s:.200} has more than {max_bytes:,} bytes"
        )
    return tuple(sizes)


def seconds_for(size: int) -> float:
    """Return the seconds in which a body of this size must arrive."""
    return BODY_SECONDS + size / SLOWEST_RATE
