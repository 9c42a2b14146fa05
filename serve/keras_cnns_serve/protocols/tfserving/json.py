"""TensorFlow Serving's JSON: row format, columnar format, and bytes.

Row:      {"instances": [image, ...]}      -> {"predictions": [row, ...]}
Columnar: {"inputs": {"images": images}}   -> {"outputs": {"name": values, ...}}

A single input or output needs no name; several inputs or outputs form an object with their names as
keys. Bytes have the form `{"b64": "..."}`.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from keras_cnns_serve.core.inputs import check_count
from keras_cnns_serve.core.json_text import dumps, loads
from keras_cnns_serve.core.limits import MAX_RANK
from keras_cnns_serve.errors import InvalidInputError
from keras_cnns_serve.protocols.parsing import from_base64
from keras_cnns_serve.repository.manifest import Manifest

from .service import BYTES, IMAGE_FEATURE, Signature, find_signature

_ENCODED_HINT = (
    'send an encoded image to :classify-image, or as {"b64": "..."} to :predict with the '
    f"signature_name {BYTES!r}"
)
_JSON_TYPES = {str: "a string", bool: "true or false", dict: "an object", type(None): "null"}

_Format = Literal["row", "columnar"]


@dataclass(frozen=True)
class PredictRequest:
    """A predict request: its tensors or encoded images, and the format of the response."""

    inputs: dict[str, NDArray[Any]]
    contents: list[bytes]
    format: _Format


@dataclass(frozen=True)
class ExamplesRequest:
    """A classify or regress request: its signature and encoded images."""

    signature_name: str
    contents: list[bytes]


def parse_predict_request(body: bytes, manifest: Manifest) -> PredictRequest:
    """Parse the body of a predict request.

    Raises:
        InvalidInputError: the body is not JSON, does not have exactly one of `instances` and
            `inputs`, or contains a ragged list or invalid base64.
        SignatureError: there is no signature with the name in the request.
    """
    document = _document(body)
    signature = find_signature(manifest, _signature_name(document))
    if "instances" in document and "inputs" in document:
        raise InvalidInputError("give either 'instances' or 'inputs', not both")
    if "instances" in document:
        format_: _Format = "row"
        values = _rows(document["instances"], signature)
    elif "inputs" in document:
        format_ = "columnar"
        values = _columns(document["inputs"], signature)
    else:
        raise InvalidInputError("Missing 'inputs' or 'instances' key")
    if not signature.encoded:
        inputs = {name: _array(value, name) for name, value in values.items()}
        return PredictRequest(inputs, [], format_)
    (content,) = values.values()
    return PredictRequest({}, _contents(content, signature.inputs[0].name), format_)


def parse_examples_request(body: bytes) -> ExamplesRequest:
    """Parse the body of a classify or regress request, which has tf.Examples as JSON objects.

    Raises:
        InvalidInputError: the body is not JSON, or an example has no encoded image.
    """
    document = _document(body)
    examples = document.get("examples")
    if not isinstance(examples, list) or not examples:
        raise InvalidInputError("'examples' must be a list of at least one object")
    check_count(len(examples))
    context = document.get("context", {})
    if not isinstance(context, dict):
        raise InvalidInputError("'context' must be an object")
    shared = _image(context)  # the context's image is decoded once
    contents = []
    for number, example in enumerate(examples):
        if not isinstance(example, dict):
            raise InvalidInputError(f"examples[{number}] must be an object of features")
        content = _image(example) if IMAGE_FEATURE in example else shared
        if content is None:
            raise InvalidInputError(
                f"examples[{number}] must have the feature {IMAGE_FEATURE!r}, an encoded image"
            )
        contents.append(content)
    return ExamplesRequest(_signature_name(document), contents)


def format_predictions(outputs: Mapping[str, NDArray[Any]], format_: _Format) -> bytes:
    """Return the response to a predict request, in the format of the request."""
    outputs = {name: _texts(name, value) for name, value in outputs.items()}
    if len(outputs) == 1:
        values: Any = next(iter(outputs.values()))
    elif format_ == "columnar":
        values = dict(outputs)
    else:
        rows = zip(*outputs.values(), strict=True)
        values = [dict(zip(outputs, row, strict=True)) for row in rows]
    return dumps({"predictions" if format_ == "row" else "outputs": values})


def format_results(values: NDArray[Any], labels: Sequence[str]) -> bytes:
    """Return the response to a classify or regress request: scores [N, K], or numbers [N]."""
    if values.ndim == 1:
        return dumps({"results": values})
    return dumps({"results": [list(zip(labels, row, strict=True)) for row in values]})


def _document(body: bytes) -> dict[str, Any]:
    document = loads(body)
    if not isinstance(document, dict):
        raise InvalidInputError('the body must be a JSON object, such as {"instances": [...]}')
    return document


def _signature_name(document: dict[str, Any]) -> str:
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise InvalidInputError(f"'signature_name' key must be a string value, not {name!r:.80}")
    return name


def _rows(rows: Any, signature: Signature) -> dict[str, Any]:
    """Return the inputs of a request in row format, as a dict from names to values."""
    name = signature.inputs[0].name
    if not isinstance(rows, list) or not rows:
        raise InvalidInputError("'instances' must be a list of at least one image")
    named = [isinstance(row, dict) and not (signature.encoded and _is_base64(row)) for row in rows]
    if not any(named):
        return {name: rows}
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or set(row) != {name}:
            found = f"has the keys {sorted(row)}" if isinstance(row, dict) else "is not an object"
            raise InvalidInputError(
                f"instances[{number}] {found:.200}; each must be an object {{{name!r}: ...}}; "
                + _ENCODED_HINT
            )
    return {name: [row[name] for row in rows]}


def _columns(columns: Any, signature: Signature) -> dict[str, Any]:
    """Return the inputs of a request in columnar format, as a dict from names to values."""
    name = signature.inputs[0].name
    if not isinstance(columns, dict) or (signature.encoded and _is_base64(columns)):
        return {name: columns}
    if signature.encoded and set(columns) != {name}:
        raise InvalidInputError(f"the only input must be {name}, not {', '.join(columns):.200}")
    return columns


def _is_base64(value: dict[str, Any]) -> bool:
    """Return whether an object represents bytes: its only key is `b64`."""
    return len(value) == 1 and isinstance(value.get("b64"), str)


def _image(features: dict[str, Any]) -> bytes | None:
    """Return the encoded image of a tf.Example, or None if it has no image."""
    feature = features.get(IMAGE_FEATURE)
    if isinstance(feature, list) and len(feature) == 1:
        (feature,) = feature
    return None if feature is None else _contents([feature], IMAGE_FEATURE)[0]


def _contents(values: Any, name: str) -> list[bytes]:
    contents = []
    for value in values if isinstance(values, list) else [values]:
        match value:
            case {"b64": str(text)} if len(value) == 1:
                contents.append(from_base64(text.encode(), name))
            case str():
                contents.append(value.encode())
            case _:
                kind = _JSON_TYPES.get(type(value), type(value).__name__)
                raise InvalidInputError(
                    f'{name} must be encoded images as {{"b64": "..."}}, not {kind}'
                )
    return contents


def _texts(name: str, values: NDArray[Any]) -> Any:
    """Convert strings to text, or to base64 if the output's name ends in _bytes."""
    if values.dtype.kind not in "SOU":
        return values

    def text(value: Any) -> Any:
        if isinstance(value, list):
            return [text(each) for each in value]
        content = value.encode() if isinstance(value, str) else bytes(value)
        if name.endswith("_bytes"):
            return {"b64": base64.b64encode(content).decode()}
        return content.decode("utf-8", "replace")

    return text(values.tolist())


def _array(value: Any, name: str) -> NDArray[Any]:
    # Check the types before NumPy converts the values. It would convert strings to an array in
    # which every element takes as much memory as the longest string.
    if wrong := _leaf_types(value) - {int, float}:
        found = ", ".join(sorted(_JSON_TYPES.get(kind, kind.__name__) for kind in wrong))
        hint = f"; {_ENCODED_HINT}" if wrong & {str, dict} else ""
        raise InvalidInputError(
            f"{name} must be lists of integers from 0 to 255, not {found}{hint}"
        )
    try:
        return np.array(value)
    except ValueError as error:  # NumPy's message does not explain the error
        raise InvalidInputError(
            f"{name} is ragged: lists at the same depth must have the same length"
        ) from error


def _leaf_types(value: Any, depth: int = 0) -> set[type]:
    """Return the types of the values in nested lists, without a loop over the values in Python."""
    if not isinstance(value, list):
        return {type(value)}
    if depth == MAX_RANK:
        raise InvalidInputError(
            f"lists are nested more than {MAX_RANK} deep; a batch of images needs 4 levels"
        )
    types = set(map(type, value))
    if list in types:
        types.remove(list)
        types = types.union(
            *(_leaf_types(item, depth + 1) for item in value if isinstance(item, list))
        )
    return types
