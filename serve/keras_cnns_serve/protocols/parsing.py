"""Functions for parsing requests, shared by all protocols, over REST and gRPC."""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from keras_cnns_serve.core.limits import INLINE_BYTES
from keras_cnns_serve.core.threads import PARSING
from keras_cnns_serve.errors import InvalidInputError

_WHITESPACE = b" \t\n\v\f\r"
_STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")
_Arguments = ParamSpec("_Arguments")
_Parsed = TypeVar("_Parsed")


async def parse(
    size: int,
    deadline: float | None,
    function: Callable[_Arguments, _Parsed],
    *arguments: _Arguments.args,
    **options: _Arguments.kwargs,
) -> _Parsed:
    """Call `function`, which parses `size` bytes; if the size is large, call it in a thread.

    Raises:
        DeadlineExceededError: the deadline (`time.monotonic()`) has passed.
    """
    if size < INLINE_BYTES:
        return function(*arguments, **options)
    return await PARSING.call(deadline, function, *arguments, **options)


def bytes_array(elements: Sequence[bytes]) -> NDArray[Any]:
    """Return an array [N] of objects; `np.array` would convert bytes to NumPy strings."""
    array = np.empty(len(elements), np.object_)
    array[:] = elements
    return array


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Convert the bits of bfloat16 numbers to float32.

    A bfloat16 number is the upper half of a float32 number.
    """
    halves = np.zeros((*bits.shape, 2), "<u2")
    halves[..., 1] = bits
    numbers: NDArray[np.float32] = halves.view("<f4")[..., 0]
    return numbers


def from_base64(text: bytes, name: str) -> bytes:
    """Decode standard or URL-safe base64, with or without line breaks and padding.

    Ruby, Android and Java's MIME encoder write line breaks.

    Raises:
        InvalidInputError: the text is not base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        pass
    text = text.translate(_STANDARD_ALPHABET, _WHITESPACE).rstrip(b"=")
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise InvalidInputError(f"{name} is not base64: {error}") from error
