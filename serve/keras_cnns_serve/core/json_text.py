"""JSON, extended by NaN and Infinity, which TensorFlow Serving reads and writes."""

import json
import math
from itertools import accumulate
from operator import mul
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from keras_cnns_serve.errors import InputTooLargeError, InvalidInputError
from keras_cnns_serve.repository.manifest import Tensor

from .inputs import MAX_IMAGES, shape_text

MAX_BYTES = 8 * 2**20  # of the JSON in a request, unless an option says otherwise
# What orjson takes at most, by measurement: for each byte of the text (its own buffer, and numbers
# as objects), and further for each list and each object.
BYTES_OF_MEMORY, BYTES_OF_LIST, BYTES_OF_OBJECT = 18, 60, 120
# Lists and objects in a request for each of its images, and further ones, such as its shapes.
PER_IMAGE, FURTHER = 8, 256


def memory_to_parse(text: bytes, length: int, max_bytes: int, tensor: Tensor | None = None) -> int:
    """Return the bytes that it takes at most to parse JSON; refuse what no request has.

    Text of a few megabytes can have millions of empty lists, which take a hundred times as much.
    How many lists a request can have follows from the shape of the images and the number of values.

    Args:
        text: What begins with the JSON.
        length: Of the JSON.
        max_bytes: The longest JSON that is parsed.
        tensor: The images, if the request may contain them as lists.

    Raises:
        InputTooLargeError: It is longer, or has more lists or objects than a request can have.
    """
    if length > max_bytes:
        raise InputTooLargeError(
            f"the JSON has more than {max_bytes:,} bytes; send binary tensors, or encoded images "
            "to :classify-image"
        )
    lists, objects = text.count(b"[", 0, length), text.count(b"{", 0, length)
    max_lists = max_objects = PER_IMAGE * MAX_IMAGES + FURTHER
    what = "a request"
    if tensor is not None:
        sizes = [size or 1 for size in tensor.shape[1:]]
        images = text.count(b",", 0, length) // math.prod(sizes) + 1
        max_lists = images * (1 + sum(accumulate(sizes[:-1], mul))) + FURTHER + MAX_IMAGES
        what = f"{images:,} images of shape {shape_text(tensor)}"
    if lists > max_lists:
        raise InputTooLargeError(
            f"the JSON has {lists:,} lists; that of {what} has at most {max_lists:,}"
        )
    if objects > max_objects:
        raise InputTooLargeError(
            f"the JSON has {objects:,} objects; that of a request has at most {max_objects:,}"
        )
    return BYTES_OF_MEMORY * length + BYTES_OF_LIST * lists + BYTES_OF_OBJECT * objects


def loads(body: bytes) -> Any:
    """Parse JSON, including the NaN and Infinity that TensorFlow Serving's clients may send.

    Raises:
        InvalidInputError: The body is neither.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if b"NaN" in body or b"Infinity" in body:
            try:
                value = json.loads(body)
                json.dumps(value, ensure_ascii=False).encode()  # no halves of surrogate pairs
                return value
            except (ValueError, RecursionError):
                pass  # the message of the first parser is more precise
        raise InvalidInputError(f"JSON Parse error: {error}") from error


def dumps(value: Any) -> bytes:
    """Write JSON, arrays included; float32 as the shortest text that reads back the same.

    Values that JSON lacks are written as NaN, Infinity and -Infinity, as TensorFlow Serving does.
    """
    text = orjson.dumps(value, _to_list, orjson.OPT_SERIALIZE_NUMPY)
    if b"null" not in text or _is_finite(value):  # orjson writes what JSON lacks as null
        return text
    return json.dumps(value, default=_to_list, separators=(",", ":")).encode()


def _to_list(array: NDArray[Any]) -> Any:
    return array.tolist()


def _is_finite(value: Any) -> bool:
    match value:
        case np.ndarray():
            return value.dtype.kind != "f" or bool(np.isfinite(value).all())
        case dict():
            return all(map(_is_finite, value.values()))
        case list() | tuple():
            return all(map(_is_finite, value))
        case float() | np.floating():
            return bool(np.isfinite(value))
    return True
