"""The Open Inference Protocol's bodies: JSON, optionally followed by binary data."""

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
    RequestedOutput,
    check_input,
    count_of,
    infer_options,
    requested_output,
)
from .tensor import DATATYPES, decode_base64, from_raw, from_values, to_raw, to_values

HEADER_LENGTH = b"inference-header-content-length"  # its value is the length of the JSON


def header_length(text: str | None, body_length: int) -> int:
    """Return the length of the JSON at the start of a body, in bytes.

    Args:
        text: the value of the header Inference-Header-Content-Length; None: there is no such
            header, and the whole body is JSON.
        body_length: the length of the whole body in bytes.

    Raises:
        InvalidInputError: the value is not a length, or exceeds the length of the body.
    """
    if text is None:
        return body_length
    if not re.fullmatch(r"\d{1,12}", text, re.ASCII) or int(text) > body_length:
        raise InvalidInputError(
            f"Inference-Header-Content-Length must be at most the length of the body, "
            f"{body_length:,}, not {text!r:.40}"
        )
    return int(text)


def parse_infer_request(body: bytes, length: int) -> tuple[dict[str, NDArray[Any]], InferOptions]:
    """Parse an infer request: JSON, followed by the data of inputs that have a binary_data_size.

    BYTES inputs that have the parameter `"content_type": "base64"` are decoded.

    Args:
        body: the whole body.
        length: the length of the JSON in bytes.

    Raises:
        InvalidInputError: the body is not JSON or not an infer request, or a tensor is wrong.
        InputTooLargeError: a shape is too large.
    """
    document = _object(loads(body[:length]), "the body")
    parameters = _parameters(document, "the request")
    raw, start = memoryview(body), length
    inputs: dict[str, NDArray[Any]] = {}
    for entry in _list(document, "inputs"):
        name = _text(entry, "name", "an input")
        input_parameters = _parameters(entry, name)
        check_input(name, input_parameters, inputs)
        datatype, shape = entry.get("datatype"), _list(entry, "shape")
        if "binary_data_size" in input_parameters:
            end = start + count_of(input_parameters, "binary_data_size")
            if end > len(body):
                raise InvalidInputError(
                    f"{name} ends at byte {end - length:,} of the binary data, which has only "
                    f"{len(body) - length:,} bytes"
                )
            array = from_raw(raw[start:end], datatype, shape, name)
            start = end
        else:
            array = from_values(_list(entry, "data"), datatype, shape, name)
        if datatype == "BYTES":
            if input_parameters.get("content_type") == "base64":
                array = decode_base64(array, name)
            elif any(map(_is_base64_of_image, array.ravel())):
                raise InvalidInputError(
                    f'{name} is an image in base64, which needs the parameter "content_type": '
                    '"base64"'
                )
        inputs[name] = array
    if start != len(body):
        raise InvalidInputError(
            f"{len(body) - start:,} bytes follow the last input; check binary_data_size (bytes of "
            "an input) and Inference-Header-Content-Length (bytes of JSON)"
        )
    binary = parameters.get("binary_data_output") is True
    outputs = []
    for entry in () if document.get("outputs") is None else _list(document, "outputs"):
        name = _text(entry, "name", "an output")
        outputs.append(requested_output(name, _parameters(entry, name), binary))
    return inputs, infer_options(parameters, outputs, _text(document, "id", "the request"))


def raw_infer_request(body: bytes, tensor: Tensor) -> tuple[dict[str, NDArray[Any]], InferOptions]:
    """Parse a request without JSON, whose body is the only input and contains one or more images.

    Raises:
        InvalidInputError: the length of the body is not a multiple of an image's size.
    """
    sizes = [size or 1 for size in tensor.shape[1:]]
    shape = [len(body) // math.prod(sizes), *sizes]
    datatype = DATATYPES[np.dtype(tensor.dtype)]
    return {tensor.name: from_raw(body, datatype, shape, tensor.name)}, InferOptions()


def format_infer_response(
    prediction: Prediction, outputs: Sequence[tuple[RequestedOutput, NDArray[Any]]], request_id: str
) -> Reply:
    """Return the response: JSON, followed by the data of outputs that are requested as binary."""
    binary_data: list[bytes] = []
    entries = []
    for output, array in outputs:
        entry: dict[str, Any] = {
            "name": output.name,
            "datatype": DATATYPES[array.dtype],
            "shape": array.shape,
        }
        if output.binary:
            binary_data.append(to_raw(array))
            entry["parameters"] = {"binary_data_size": len(binary_data[-1])}
        else:
            entry["data"] = to_values(array)
        entries.append(entry)
    source = prediction.source
    document = {"model_name": source.name, "model_version": str(source.version)}
    if request_id:
        document["id"] = request_id
    head = dumps(document | {"outputs": entries})
    if not binary_data:
        return Reply(head)
    return Reply(
        b"".join([head, *binary_data]),
        media_type=b"application/octet-stream",
        headers=[(HEADER_LENGTH, b"%d" % len(head))],
    )


def _object(value: Any, subject: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInputError(f"{subject} must be an object, not {value!r:.40}")
    return value


def _list(document: dict[str, Any], key: str) -> list[Any]:
    value = document.get(key)
    if not isinstance(value, list):
        raise InvalidInputError(f"{key!r} must be a list, not {value!r:.40}")
    return value


def _text(document: Any, key: str, subject: str) -> str:
    value = _object(document, subject).get(key)
    if value is None and key == "id":
        return ""
    if not isinstance(value, str):
        raise InvalidInputError(f"{key!r} of {subject} must be a string, not {value!r:.40}")
    return value


def _parameters(document: dict[str, Any], subject: str) -> dict[str, Any]:
    """Return the parameters that are not null; MLServer's client sends null for absent values."""
    value = document.get("parameters")
    parameters = {} if value is None else _object(value, f"'parameters' of {subject:.80}")
    return {name: value for name, value in parameters.items() if value is not None}


def _is_base64_of_image(element: bytes) -> bool:
    try:
        return base64.b64decode(element[:16]).startswith(SIGNATURES)
    except binascii.Error:
        return False
