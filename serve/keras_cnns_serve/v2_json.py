"""The Open Inference Protocol's bodies: JSON, and the raw bytes that may follow it."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import v2
from .asgi import Reply
from .dataplane import Prediction
from .errors import InvalidInputError
from .json_tensor import dumps, loads
from .manifest import Tensor
from .v2_tensor import DATATYPES, from_base64, from_raw, from_values, to_raw, to_values

HEADER_LENGTH = b"inference-header-content-length"  # of the JSON, where raw bytes follow it
MAX_KEPT = 2**11  # bytes of JSON; longer ones are read each time


def header_length(text: str | None, body_length: int) -> int:
    """The length of the JSON at a body's start: all of it, without the header.

    Raises:
        InvalidInputError: the header is no length, or longer than the body.
    """
    if text is None:
        return body_length
    if not re.fullmatch(r"\d{1,12}", text, re.ASCII) or int(text) > body_length:
        raise InvalidInputError(
            f"Inference-Header-Content-Length must be a number of bytes up to the body's "
            f"{body_length:,}, not {text!r:.40}"
        )
    return int(text)


@dataclass(frozen=True, slots=True)
class _Input:
    """What the JSON says of an input."""

    name: str
    datatype: Any
    shape: list[Any]
    size: int | None  # bytes, where they follow the JSON
    data: list[Any]  # or else the values
    base64: bool


def parse_infer_request(body: bytes, length: int) -> v2.InferRequest:
    """Reads an infer request: JSON, then the raw bytes of the inputs that have a binary_data_size.

    An input of BYTES with the parameter `"content_type": "base64"` is decoded.

    Args:
        body: all of it.
        length: of the JSON, in bytes.

    Raises:
        InvalidInputError: it is not JSON, not such a request, or its tensors are wrong.
        InputTooLargeError: a shape is that of no memory.
    """
    read_head = _kept_head if length < len(body) and length <= MAX_KEPT else _read_head
    described, request = read_head(body[:length])
    raw, start = memoryview(body), length
    inputs: dict[str, NDArray[Any]] = {}
    for each in described:
        if each.size is not None:
            end = start + each.size
            if end > len(body):
                raise InvalidInputError(
                    f"{each.name} ends at byte {end - length:,} of the binary data, which has "
                    f"{len(body) - length:,}"
                )
            array = from_raw(raw[start:end], each.datatype, each.shape, each.name)
            start = end
        else:
            array = from_values(each.data, each.datatype, each.shape, each.name)
        inputs[each.name] = from_base64(array, each.name) if each.base64 else array
    if start != len(body):
        raise InvalidInputError(
            f"{len(body) - start:,} bytes follow the last input; binary_data_size says how many "
            "are an input's, and Inference-Header-Content-Length how many are JSON"
        )
    outputs, priority, timeout = request.outputs, request.priority, request.timeout
    return v2.InferRequest(inputs, outputs, request.id, priority, timeout, request.binary)


def _read_head(head: bytes) -> tuple[list[_Input], v2.InferRequest]:
    """The JSON: what it says of each input, and the request without them."""
    document = _object(loads(head), "the body")
    parameters = _parameters(document, "the request")
    inputs: dict[str, _Input] = {}
    for entry in _list(document, "inputs"):
        name = _text(entry, "name", "an input")
        of_input = _parameters(entry, name)
        if name in inputs:
            raise InvalidInputError(f"the input {name!r:.80} comes twice")
        v2.check_input(of_input, name)
        datatype, shape = entry.get("datatype"), _list(entry, "shape")
        follows = "binary_data_size" in of_input
        size = v2.whole(of_input, "binary_data_size") if follows else None
        data = [] if follows else _list(entry, "data")
        packed = of_input.get("content_type") == "base64" and datatype == "BYTES"
        inputs[name] = _Input(name, datatype, shape, size, data, packed)
    if not inputs:
        raise InvalidInputError("'inputs' must have at least one tensor")
    binary = parameters.get("binary_data_output") is True
    outputs, request_id = _outputs(document, binary), _text(document, "id", "the request")
    priority, timeout = v2.scheduling(parameters)
    request = v2.InferRequest({}, outputs, request_id, priority, timeout, binary)
    return list(inputs.values()), request


_kept_head = lru_cache(_read_head)  # before raw bytes a client sends the same again and again


def raw_infer_request(body: bytes, tensor: Tensor) -> v2.InferRequest:
    """A request without JSON: the body is the one input, and its length says how many images.

    Raises:
        InvalidInputError: the body is not that of whole images.
    """
    sizes = [size or 1 for size in tensor.shape[1:]]
    shape = [len(body) // math.prod(sizes), *sizes]
    datatype = DATATYPES[np.dtype(tensor.dtype)]
    return v2.InferRequest({tensor.name: from_raw(body, datatype, shape, tensor.name)}, ())


def format_infer_response(
    prediction: Prediction,
    outputs: Sequence[tuple[v2.WantedOutput, NDArray[Any]]],
    request_id: str,
) -> Reply:
    """Writes the answer: JSON, then the raw bytes of the outputs that are wanted so."""
    source = prediction.source
    tail = [to_raw(array) for wanted, array in outputs if wanted.binary]
    if len(tail) == len(outputs):
        described = tuple(
            (wanted.name, array.dtype, array.shape, len(content))
            for (wanted, array), content in zip(outputs, tail, strict=True)
        )
        # An id may be another each time, and long.
        raw_head = _raw_head.__wrapped__ if request_id else _raw_head
        head = raw_head(source.name, source.version, request_id, described)
    else:
        sizes = iter(map(len, tail))
        entries = [
            _entry(wanted.name, array.dtype, array.shape)
            | (_sized(next(sizes)) if wanted.binary else {"data": to_values(array)})
            for wanted, array in outputs
        ]
        head = _head(source.name, source.version, request_id, entries)
    if not tail:
        return Reply(head)
    return Reply(
        b"".join([head, *tail]),
        media_type=b"application/octet-stream",
        headers=[(HEADER_LENGTH, b"%d" % len(head))],
    )


@lru_cache
def _raw_head(
    name: str,
    version: int,
    request_id: str,
    outputs: tuple[tuple[str, np.dtype[Any], tuple[int, ...], int], ...],
) -> bytes:
    """The JSON before outputs that are all raw: each with name, type, shape, and size in bytes."""
    entries = [_entry(output, dtype, shape) | _sized(n) for output, dtype, shape, n in outputs]
    return _head(name, version, request_id, entries)


def _head(name: str, version: int, request_id: str, outputs: list[dict[str, Any]]) -> bytes:
    document: dict[str, Any] = {"model_name": name, "model_version": str(version)}
    if request_id:
        document["id"] = request_id
    return dumps(document | {"outputs": outputs})


def _entry(name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> dict[str, Any]:
    return {"name": name, "datatype": DATATYPES[dtype], "shape": shape}


def _sized(size: int) -> dict[str, Any]:
    return {"parameters": {"binary_data_size": size}}


def _outputs(document: dict[str, Any], binary: bool) -> list[v2.WantedOutput]:
    outputs = []
    for entry in _list(document, "outputs") if "outputs" in document else ():
        name = _text(entry, "name", "an output")
        parameters = _parameters(entry, name)
        v2.check_input(parameters, name)
        wants_raw = parameters.get("binary_data", binary) is True
        outputs.append(v2.WantedOutput(name, v2.whole(parameters, "classification"), wants_raw))
    return outputs


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
    value = _object(document, what).get(key, "" if key == "id" else None)
    if not isinstance(value, str):
        raise InvalidInputError(f"{key!r} of {what} must be a string, not {value!r:.40}")
    return value


def _parameters(document: dict[str, Any], what: str) -> dict[str, Any]:
    return _object(document.get("parameters", {}), f"'parameters' of {what:.80}")
