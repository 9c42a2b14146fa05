"""JSON with NaN and Infinity, which TensorFlow Serving reads and writes."""

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

MAX_BYTES = 8 * 2**20  # default maximum size of the JSON in a request
# The memory that orjson allocates at most, as measured: bytes for each byte of the text (for its
# buffer and the numbers), and additional bytes for each list and for each JSON object.
_BYTES_OF_MEMORY, BYTES_OF_LIST, BYTES_OF_OBJECT = 18, 60, 120
# Maximum number of objects in a request: `_PER_IMAGE` for each image that a request can have, and
# `_OTHERS` for the rest, such as shapes. The same limit applies to lists, unless images are lists.
_PER_IMAGE, _OTHERS = 8, 256


def memory_to_parse(text: bytes, length: int, max_bytes: int, tensor: Tensor | None = None) -> int:
    """Check how many lists and objects JSON has; return the maximum memory for parsing it.

    A few megabytes of text can have millions of empty lists, which need a hundred times as much
    memory. In a valid request, the number of lists is limited by the shape of the images and the
    number of values.

    Args:
        text: bytes that begin with the JSON.
        length: length of the JSON.
        max_bytes: the maximum length of JSON.
        tensor: the graph's input, if the request may contain the images as lists.

    Raises:
        InputTooLargeError: the JSON is too long, or has more lists or objects than a valid request.
    """
    if length > max_bytes:
        raise InputTooLargeError(
            f"the JSON has more than {max_bytes:,} bytes; send binary tensors, or encoded images "
            "to :classify-image"
        )
    lists, objects = text.count(b"[", 0, length), text.count(b"{", 0, length)
    max_lists = max_objects = _PER_IMAGE * MAX_IMAGES + _OTHERS
    subject = "a request"
    if tensor is not None:
        sizes = [size or 1 for size in tensor.shape[1:]]
        images = text.count(b",", 0, length) // math.prod(sizes) + 1
        max_lists = images * (1 + sum(accumulate(sizes[:-1], mul))) + _OTHERS + MAX_IMAGES
        subject = f"{images:,} images of shape {shape_text(tensor)}"
    if lists > max_lists:
        raise InputTooLargeError(
            f"the JSON has {lists:,} lists; {subject} can have at most {max_lists:,}"
        )
    if objects > max_objects:
        raise InputTooLargeError(
            f"the JSON has {objects:,} objects; a request can have at most {max_objects:,}"
        )
    return _BYTES_OF_MEMORY * length + BYTES_OF_LIST * lists + BYTES_OF_OBJECT * objects


def loads(body: bytes) -> Any:
    """Parse JSON, including the NaN and Infinity that TensorFlow Serving's clients may send.

    Raises:
        InvalidInputError: the body is not JSON.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if b"NaN" in body or b"Infinity" in body:
            try:
                value = json.loads(body.decode())
                if b"\\ud" in body.lower():  # raises an error for unpaired surrogates
                    json.dumps(value, ensure_ascii=False).encode()
                return value
            except (ValueError, RecursionError):  # the former also if the body is not UTF-8
                pass  # report the first parser's error, whose message is more precise
        raise InvalidInputError(f"JSON Parse error: {error}") from error


def dumps(value: Any) -> bytes:
    """Return a value, which may contain arrays, as JSON.

    Write a float32 as the shortest decimal number that is rounded to it. Like TensorFlow Serving,
    write NaN, Infinity and -Infinity, which JSON does not have.
    """
    text = orjson.dumps(value, _to_list, orjson.OPT_SERIALIZE_NUMPY)
    if b"null" not in text or _is_finite(value):  # orjson writes NaN and Infinity as null
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
