"""What every protocol needs to read a request, over REST and over gRPC."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from keras_cnns_serve.core.limits import IN_THREAD_BYTES

_Arguments = ParamSpec("_Arguments")
_Parsed = TypeVar("_Parsed")


async def parse(
    size: int,
    function: Callable[_Arguments, _Parsed],
    *arguments: _Arguments.args,
    **options: _Arguments.kwargs,
) -> _Parsed:
    """Call `function`; in another thread if `size` bytes would keep the event loop busy."""
    if size < IN_THREAD_BYTES:
        return function(*arguments, **options)
    return await asyncio.to_thread(function, *arguments, **options)


def bytes_array(elements: Sequence[bytes]) -> NDArray[Any]:
    """Return an array [N] of objects; `np.array` would convert the bytes to its own strings."""
    array = np.empty(len(elements), np.object_)
    array[:] = elements
    return array


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return bfloat16 numbers, given as their bits, as float32: their upper half."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
