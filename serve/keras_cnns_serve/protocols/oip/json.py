"""The Open Inference Protocol's bodies: JSON, and the raw bytes that may follow it."""

import base64
import binascii
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_cnns_serve.core.json_text import dumps, loads
from keras_cnns_serve.core.prediction import Prediction
from keras_cnns_serve.errors import InvalidInputError
from keras_cnns_serve.images.decoding import SIGNATURES
from keras_cnns_serve.repository.manifest import Tensor
from keras_cnns_serve.transport.http.asgi import Reply

from .service import (
    InferOptions,
    WantedOutput,
    check_input,
    count_of,
    infer_options,
    wanted_output,
)
from .tensor import DATATYPES, decode_base64, from_raw, from_values, to_raw, to_values

HEADER_LENGTH = b"inference-header-content-length"  # the length of the JSON before raw bytes


def header_length(text: str | None, body_length: int) -> int:
    """Return the length of the JSON at a body's start, which is all of it without the header.

    Raises:
        InvalidInputError: The header is not a length, or is longer than the body.
    """
    if text is None:
        return body_length
    if not re.fullmatch(r"\d{1,12}", text, re.ASCII) or int(text) > body_length:
        raise InvalidInputError(
            f"Inference-Header-Content-Length must be a number of bytes up to the body's "
            f"{body_length:,}, not {text!r:.40}"
        )
    return int(text)


def parse_infer_request(body: bytes, length: int) -> tuple[dict[str, NDArray[Any]], InferOptions]:
    """Read an infer request: JSON, then the raw bytes of the inputs that have a binary_data_size.

    An input of BYTES with the parameter `"content_type": "base64"` is decoded.

    Args:
        body: The whole body.
        length: The length of the JSON in bytes.

    Raises:
        InvalidInputError: The body is not JSON, not such a request, or its tensors are wrong.
        InputTooLargeError: A shape is larger than any memory.
    """
    document = _object(loads(body[:length]), "the body")
    parameters = _parameters(document, "the request")
    raw, start = memoryview(body), length
    inputs: dict[str, NDArray[Any]] = {}
    for entry in _list(document, "inputs"):
        name = _text(entry, "name", "an input")
        of_input = _parameters(entry, name)
        check_input(name, of_input, inputs)
        datatype, shape = entry.get("datatype"), _list(entry, "shape")
        if "binary_data_size" in of_input:
            end = start + count_of(of_input, "binary_data_size")
            if end > len(body):
                raise InvalidInputError(
                    f"{name} ends at byte {end - length:,} of the binary data, which has "
                    f"{len(body) - length:,}"
                )
            array = from_raw(raw[start:end], datatype, shape, name)
            start = end
        else:
            array = from_values(_list(entry, "data"), datatype, shape, name)
        if datatype == "BYTES":
            if of_input.get("content_type") == "base64":
                array = decode_base64(array, name)
            elif any(map(_is_base64_of_image, array.ravel())):
                raise InvalidInputError(
                    f'{name} is an image in base64, which needs the parameter "content_type": '
                    '"base64"'
                )
        inputs[name] = array
    if start != len(body):
        raise InvalidInputError(
            f"{len(body) - start:,} bytes follow the last input; binary_data_size says how many "
            "are an input's, and Inference-Header-Content-Length how many are JSON"
        )
    binary = parameters.get("binary_data_output") is True
    outputs = []
    for entry in () if document.get("outputs") is None else _list(document, "outputs"):
        name = _text(entry, "name", "an output")
        outputs.append(wanted_output(name, _parameters(entry, name), binary))
    return inputs, infer_options(parameters, outputs, _text(document, "id", "the request"))


def raw_infer_request(body: bytes, tensor: Tensor) -> tuple[dict[str, NDArray[Any]], InferOptions]:
    """Read a request without JSON: its body is the one input, its length the number of images.

    Raises:
        InvalidInputError: The body does not consist of whole images.
    """
    sizes = [size or 1 for size in tensor.shape[1:]]
    shape = [len(body) // math.prod(sizes), *sizes]
    datatype = DATATYPES[np.dtype(tensor.dtype)]
    return {tensor.name: from_raw(body, datatype, shape, tensor.name)}, InferOptions()


def format_infer_response(
    prediction: Prediction, outputs: Sequence[tuple[WantedOutput, NDArray[Any]]], request_id: str
) -> Reply:
    """Write the answer: JSON, then the raw bytes of the outputs that are wanted raw."""
    tail: list[bytes] = []
    entries = []
    for wanted, array in outputs:
        entry: dict[str, Any] = {
            "name": wanted.name,
            "datatype": DATATYPES[array.dtype],
            "shape": array.shape,
        }
        if wanted.binary:
            tail.append(to_raw(array))
            entry["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            entry["data"] = to_values(array)
        entries.append(entry)
    source = prediction.source
    document = {"model_name": source.name, "model_version": str(source.version)}
    if request_id:
        document["id"] = request_id
    head = dumps(document | {"outputs": entries})
    if not tail:
        return Reply(head)
    return Reply(
        b"".join([head, *tail]),
        media_type=b"application/octet-stream",
        headers=[(HEADER_LENGTH, b"%d" % len(head))],
    )


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInputError(f"{what} must be an object, not {value!r:.40}")
    return value


def _list(document: dict[str, Any], key: str) -> list[Any]:
    value = document.get(key)
    if not isinstance(value, list):
        raise InvalidInputError(f"{key!r} must be a list, not {value!r:.40}")
    return value


def _text(document: Any, key: str, what: str) -> str:
    value = _object(document, what).get(key)
    if value is None and key == "id":
        return ""
    if not isinstance(value, str):
        raise InvalidInputError(f"{key!r} of {what} must be a string, not {value!r:.40}")
    return value


def _parameters(document: dict[str, Any], what: str) -> dict[str, Any]:
    """Return the parameters; null counts as absent, as MLServer's client sends it."""
    given = document.get("parameters")
    parameters = {} if given is None else _object(given, f"'parameters' of {what:.80}")
    return {name: value for name, value in parameters.items() if value is not None}


def _is_base64_of_image(element: bytes) -> bool:
    try:
        return base64.b64decode(element[:16]).startswith(SIGNATURES)
    except binascii.Error:
        return False
