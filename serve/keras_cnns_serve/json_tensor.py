"""TensorFlow Serving's JSON for tensors: the row form, the columnar form, and NaN.

Row:      {"instances": [image, ...]}      -> {"predictions": [row, ...]}
Columnar: {"inputs": {"images": images}}   -> {"outputs": {"name": values, ...}}

One input or output needs no name; several are objects keyed by name.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray

from .errors import InvalidInputError

JSON_TYPES = {str: "a string", bool: "true or false", dict: "an object", type(None): "null"}
MAX_DEPTH = 8  # of lists
SIGNATURE = "serving_default"


@dataclass(frozen=True)
class PredictRequest:
    """The tensors of a predict request, and the form that its answer must have."""

    inputs: dict[str, NDArray[Any]]
    form: Literal["row", "columnar"]


def loads(body: bytes) -> Any:
    """Parses JSON, and also the NaN and Infinity that TensorFlow Serving's clients may send.

    Raises:
        InvalidInputError: the body is neither.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if b"NaN" in body or b"Infinity" in body:
            try:
                return json.loads(body)
            except (ValueError, RecursionError):
                pass  # the first parser's message says more
        raise InvalidInputError(f"JSON Parse error: {error}") from error


def dumps(value: Any) -> bytes:
    """Writes JSON, arrays included; float32 as the shortest text that reads back the same.

    Values that JSON lacks are written as NaN, Infinity and -Infinity, as TensorFlow Serving does.
    """
    if _is_finite(value):
        return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    return json.dumps(value, default=lambda array: array.tolist(), separators=(",", ":")).encode()


def parse_predict_request(body: bytes, input_name: str) -> PredictRequest:
    """Reads the body of a predict request for a graph with one input.

    Raises:
        InvalidInputError: it is not JSON, names a signature that does not exist, has not exactly
            one of `instances` and `inputs`, or a list in it is ragged.
    """
    document = loads(body)
    if not isinstance(document, dict):
        raise InvalidInputError('the body must be a JSON object, such as {"instances": [...]}')
    signature = document.get("signature_name", "")
    if signature not in ("", SIGNATURE):
        raise InvalidInputError(f"signature_name must be {SIGNATURE!r}, not {signature!r:.80}")
    if "instances" in document and "inputs" in document:
        raise InvalidInputError("give either 'instances' or 'inputs', not both")
    if "instances" in document:
        return PredictRequest(_from_rows(document["instances"], input_name), "row")
    if "inputs" in document:
        columns = document["inputs"]
        if not isinstance(columns, dict):
            columns = {input_name: columns}
        inputs = {name: _array(value, name) for name, value in columns.items()}
        return PredictRequest(inputs, "columnar")
    raise InvalidInputError("Missing 'inputs' or 'instances' key")


def format_predictions(
    outputs: Mapping[str, NDArray[Any]], form: Literal["row", "columnar"]
) -> bytes:
    """Writes the answer to a predict request in the request's own form."""
    if len(outputs) == 1:
        values: Any = next(iter(outputs.values()))
    elif form == "columnar":
        values = dict(outputs)
    else:
        rows = zip(*outputs.values(), strict=True)
        values = [dict(zip(outputs, row, strict=True)) for row in rows]
    return dumps({"predictions" if form == "row" else "outputs": values})


def _from_rows(rows: Any, input_name: str) -> dict[str, NDArray[Any]]:
    if not isinstance(rows, list) or not rows:
        raise InvalidInputError("'instances' must be a list of at least one image")
    named = [isinstance(row, dict) for row in rows]
    if not any(named):
        return {input_name: _array(rows, input_name)}
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or set(row) != {input_name}:
            given = f"the keys {sorted(row)}" if isinstance(row, dict) else "no object"
            raise InvalidInputError(
                f"instances[{number}] is {given:.200}; each must be {{{input_name!r}: pixels}}. "
                "An encoded image goes to :classify-image"
            )
    return {input_name: _array([row[input_name] for row in rows], input_name)}


def _array(value: Any, name: str) -> NDArray[Any]:
    # Before NumPy sees it: one long string makes every element of its array as long.
    if wrong := _leaf_types(value) - {int, float}:
        given = ", ".join(sorted(JSON_TYPES.get(kind, kind.__name__) for kind in wrong))
        raise InvalidInputError(f"{name} takes lists of integers from 0 to 255, not {given}")
    try:
        return np.array(value)
    except ValueError as error:  # numpy's text speaks of its own sequences
        raise InvalidInputError(
            f"{name} is ragged: lists at the same depth must have the same length"
        ) from error


def _leaf_types(value: Any, depth: int = 0) -> set[type]:
    """The types of what stands in nested lists, told list by list at C's speed."""
    if not isinstance(value, list):
        return {type(value)}
    if depth == MAX_DEPTH:
        raise InvalidInputError(f"lists are nested deeper than {MAX_DEPTH}; images are 4 deep")
    types = set(map(type, value))
    if list in types:
        types.remove(list)
        types = types.union(
            *(_leaf_types(item, depth + 1) for item in value if isinstance(item, list))
        )
    return types


def _is_finite(value: Any) -> bool:
    match value:
        case np.ndarray():
            return value.dtype.kind != "f" or bool(np.isfinite(value).all())
        case dict():
            return all(map(_is_finite, value.values()))
        case list():
            return all(map(_is_finite, value))
        case float() | np.floating():
            return bool(np.isfinite(value))
    return True
