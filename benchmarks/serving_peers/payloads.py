"""The bytes of the requests, and a check of the responses."""

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Payload:
    """A POST request, which h2load repeats over HTTP/1.1, or over HTTP/2 for gRPC."""

    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    grpc: bool = False


@dataclass(frozen=True)
class Content:
    """An image for the requests, and the model's probabilities for the check of the responses."""

    model: str
    image: bytes  # encoded
    pixels: NDArray[np.uint8]  # [1, H, W, C]
    probabilities: NDArray[np.float32]  # [1, K]


def image_body(path: str) -> Callable[[Content], Payload]:
    """Return a function that creates a request whose body is the encoded image."""
    return lambda content: Payload(
        path.format(model=content.model), content.image, {"content-type": "image/jpeg"}
    )


def image_json(path: str) -> Callable[[Content], Payload]:
    """Return a function that creates a request with the encoded image as base64 in JSON."""
    return lambda content: Payload(
        path.format(model=content.model),
        json.dumps({"image": base64.b64encode(content.image).decode()}).encode(),
        {"content-type": "application/json"},
    )


def image_v2(content: Content) -> Payload:
    """Create a request of the V2 protocol's binary extension, with the image as a BYTES tensor."""
    data = len(content.image).to_bytes(4, "little") + content.image
    outputs = ("labels", "top_probabilities")
    return _v2(f"{content.model}_image", "image", "BYTES", [1, 1], data, outputs)


def tensor_v2(content: Content) -> Payload:
    """Create a request of the V2 protocol's binary extension, with the pixels as a uint8 tensor."""
    shape = list(content.pixels.shape)
    data = content.pixels.tobytes()
    return _v2(content.model, "images", "UINT8", shape, data, ("probabilities",))


def _v2(
    model: str, tensor: str, kind: str, shape: list[int], data: bytes, outputs: tuple[str, ...]
) -> Payload:
    size = {"binary_data_size": len(data)}
    head = {
        "inputs": [{"name": tensor, "shape": shape, "datatype": kind, "parameters": size}],
        "outputs": [{"name": name, "parameters": {"binary_data": True}} for name in outputs],
    }
    text = json.dumps(head).encode()
    headers = {
        "content-type": "application/octet-stream",
        "inference-header-content-length": str(len(text)),
    }
    return Payload(f"/v2/models/{model}/infer", text + data, headers)


def tensor_grpc(content: Content) -> Payload:
    """Create a ModelInferRequest with the pixels as a uint8 tensor."""
    return _infer_grpc(content, b"UINT8", content.pixels.shape, content.pixels.tobytes())


def image_grpc(content: Content) -> Payload:
    """Create a ModelInferRequest with the encoded image as a BYTES tensor.

    Four bytes with the length of the image precede it.
    """
    raw = len(content.image).to_bytes(4, "little") + content.image
    return _infer_grpc(content, b"BYTES", (1,), raw)


def _infer_grpc(content: Content, datatype: bytes, shape: tuple[int, ...], raw: bytes) -> Payload:
    """Create a ModelInferRequest, preceded by the five bytes of gRPC's framing."""
    sizes = b"".join(map(_varint, shape))
    tensor = _field(1, b"images") + _field(2, datatype) + _field(3, sizes)
    message = _field(1, content.model.encode()) + _field(5, tensor)
    message += _field(6, _field(1, b"probabilities")) + _field(7, raw)
    return Payload(
        "/inference.GRPCInferenceService/ModelInfer",
        b"\0" + len(message).to_bytes(4, "big") + message,
        {"content-type": "application/grpc", "te": "trailers"},
        grpc=True,
    )


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


def _field(number: int, content: bytes) -> bytes:
    """Encode a length-delimited field of a protobuf message."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def is_right(content: Content, answer: bytes) -> bool:
    """Return whether a response is correct.

    A correct response ends with the probabilities in binary form, or its first label is that of the
    most probable class.
    """
    size = content.probabilities.nbytes
    if len(answer) >= size:
        given = np.frombuffer(answer[-size:], np.float32)
        if np.allclose(given, content.probabilities[0], atol=1e-4):
            return True
    best = f"class-{content.probabilities.argmax()}".encode()
    return re.findall(rb"class-[0-9]+", answer)[:1] == [best]
