"""The Open Inference Protocol's tensors: raw bytes, or lists of values.

Raw numbers are little-endian and row-major. In raw BYTES, each element is preceded by its length, a
four-byte integer. https://github.com/kserve/open-inference-protocol
"""

import math
import struct
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_cnns_serve.core.inputs import MAX_IMAGES
from keras_cnns_serve.core.limits import MAX_RANK, checked_shape
from keras_cnns_serve.errors import InputTooLargeError, InvalidInputError
from keras_cnns_serve.protocols.parsing import bytes_array, from_base64, from_bfloat16

DTYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BF16": np.uint16,  # NumPy has no bfloat16; the bits are converted to float32
    "BYTES": np.object_,
}
DATATYPES = {np.dtype(dtype): name for name, dtype in DTYPES.items() if name != "BF16"}
# The Python types that are permitted in a list of values, by the kind of the NumPy type.
_KINDS: dict[str, set[type]] = {
    "O": {str, bytes},
    "b": {bool},
    "f": {int, float},
    "i": {int},
    "u": {int},
}
_LENGTH = struct.Struct("<I")


def from_raw(
    content: bytes | memoryview, datatype: str, sizes: Sequence[Any], name: str
) -> NDArray[Any]:
    """Return raw bytes as an array, without a copy; bfloat16 becomes float32.

    Raises:
        InvalidInputError: the datatype is unknown, or the number of bytes does not fit the shape.
    """
    dtype, shape = _checked(datatype, sizes, name)
    if datatype == "BYTES":
        return _strings(_split(content, name, math.prod(shape)), shape, name)
    size = math.prod(shape) * dtype.itemsize
    if len(content) != size:
        raise InvalidInputError(
            f"{name} has {len(content):,} bytes, but its shape needs {size:,}: {list(shape)} of "
            f"{datatype}"
        )
    array = np.frombuffer(content, dtype).reshape(shape)
    return from_bfloat16(array) if datatype == "BF16" else array


def from_values(values: Any, datatype: str, sizes: Sequence[Any], name: str) -> NDArray[Any]:
    """Return a list of values, flat or nested like the shape, as an array.

    Raises:
        InvalidInputError: the datatype is unknown or only supported as raw bytes, a value has
            the wrong type, or the number of values does not fit the shape.
    """
    dtype, shape = _checked(datatype, sizes, name)
    if datatype == "BF16":
        raise InvalidInputError(f"{name} has the datatype BF16, which must be sent as raw bytes")
    flat = _flatten(values, name)
    _check_count(len(flat), shape, name)
    permitted = _KINDS[dtype.kind]
    if wrong := set(map(type, flat)) - permitted:
        raise InvalidInputError(
            f"{name} has values of type {', '.join(sorted(kind.__name__ for kind in wrong))}; "
            f"values of the datatype {datatype} must have the type "
            f"{' or '.join(sorted(kind.__name__ for kind in permitted))}"
        )
    if datatype == "BYTES":
        texts = [value.encode() if isinstance(value, str) else value for value in flat]
        return _strings(texts, shape, name)
    try:
        return np.fromiter(flat, dtype, len(flat)).reshape(shape)
    except OverflowError as error:
        raise InvalidInputError(
            f"{name} has values outside the range of {datatype}: {error}"
        ) from error


def decode_base64(array: NDArray[Any], name: str) -> NDArray[Any]:
    """Decode BYTES in base64, an encoding that JSON needs because it cannot contain bytes.

    Raises:
        InvalidInputError: an element is not base64.
    """
    decoded = [from_base64(element, name) for element in array.ravel()]
    return bytes_array(decoded).reshape(array.shape)


def to_raw(array: NDArray[Any]) -> bytes:
    """Return an array as raw bytes, which `from_raw` can read."""
    if array.dtype != np.object_:
        return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    return b"".join(_LENGTH.pack(len(element)) + element for element in array.ravel())


def to_values(array: NDArray[Any]) -> Any:
    """Return the flat values of an array for JSON, with BYTES as text."""
    flat = array.ravel()
    if array.dtype == np.object_:
        return [element.decode(errors="replace") for element in flat]
    return flat


def _checked(
    datatype: Any, sizes: Sequence[Any], name: str
) -> tuple[np.dtype[Any], tuple[int, ...]]:
    if not isinstance(datatype, str) or datatype not in DTYPES:
        raise InvalidInputError(
            f"{name} has the datatype {datatype!r:.40}; the datatypes are {', '.join(DTYPES)}"
        )
    dtype = np.dtype(DTYPES[datatype])
    shape = checked_shape(sizes, dtype.itemsize, name)
    if datatype == "BYTES" and math.prod(shape) > MAX_IMAGES:
        raise InputTooLargeError(
            f"{name} has {math.prod(shape):,} elements; a request can have at most {MAX_IMAGES:,} "
            "encoded images; send several requests"
        )
    return dtype, shape


def _strings(elements: list[bytes], shape: tuple[int, ...], name: str) -> NDArray[Any]:
    _check_count(len(elements), shape, name)
    return bytes_array(elements).reshape(shape)


def _check_count(count: int, shape: tuple[int, ...], name: str) -> None:
    if count != math.prod(shape):
        raise InvalidInputError(
            f"{name} has {count} values, but its shape needs {math.prod(shape)}: {list(shape)}"
        )


def _split(content: bytes | memoryview, name: str, count: int) -> list[bytes]:
    elements: list[bytes] = []
    start = 0
    while start < len(content):
        if len(elements) == count:
            raise InvalidInputError(f"{name} has more than the {count} elements of its shape")
        first = start + _LENGTH.size
        end = first + _LENGTH.unpack_from(content, start)[0] if first <= len(content) else first
        if end > len(content):
            raise InvalidInputError(
                f"{name} is truncated: its element {len(elements) + 1} ends at byte {end:,}, but "
                f"it has only {len(content):,} bytes"
            )
        elements.append(bytes(content[first:end]))
        start = end
    return elements


def _flatten(values: Any, name: str) -> Any:
    """Return the values of nested lists, without a loop over the values in Python."""
    for _ in range(MAX_RANK + 1):
        types = set(map(type, values))
        if list not in types:
            return values
        if types != {list} or len(set(map(len, values))) != 1:
            break
        values = list(chain.from_iterable(values))
    raise InvalidInputError(
        f"{name} is ragged or too deep: lists at the same depth must have the same length"
    )
