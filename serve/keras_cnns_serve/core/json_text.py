"""JSON, extended by NaN and Infinity, which TensorFlow Serving reads and writes."""

import json
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from keras_cnns_serve.errors import InvalidInputError


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
                return json.loads(body)
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
