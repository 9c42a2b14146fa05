"""Requests that the load sends, as bytes, and whether an answer is the right one."""

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Payload:
    """One POST: h2load repeats it, over HTTP/1.1 or, for gRPC, over HTTP/2."""

    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    grpc: bool = False


@dataclass(frozen=True)
class Content:
    """What is asked, and what a right answer holds."""

    model: str
    image: bytes  # encoded
    pixels: NDArray[np.uint8]  # [1, H, W, C]
    probabilities: NDArray[np.float32]  # [1, K]


def image_body(path: str) -> Callable[[Content], Payload]:
    """The encoded image as the whole body."""
    return lambda content: Payload(
        path.format(model=content.model), content.image, {"content-type": "image/jpeg"}
    )


def image_json(path: str) -> Callable[[Content], Payload]:
    """The encoded image as base64 in JSON."""
    return lambda content: Payload(
        path.format(model=content.model),
        json.dumps({"image": base64.b64encode(content.image).decode()}).encode(),
        {"content-type": "application/json"},
    )


def image_v2(content: Content) -> Payload:
    """The encoded image as a BYTES tensor, by the binary extension of the V2 protocol."""
    data = len(content.image).to_bytes(4, "little") + content.image
    outputs = ("labels", "top_probabilities")
    return _v2(f"{content.model}_image", "image", "BYTES", [1, 1], data, outputs)


def tensor_v2(content: Content) -> Payload:
    """The pixels as a uint8 tensor, by the binary extension of the V2 protocol."""
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
    """The pixels in a ModelInferRequest."""
    return _infer_grpc(content, b"UINT8", content.pixels.shape, content.pixels.tobytes())


def image_grpc(content: Content) -> Payload:
    """The encoded image in a ModelInferRequest, its length in four bytes before it."""
    raw = len(content.image).to_bytes(4, "little") + content.image
    return _infer_grpc(content, b"BYTES", (1,), raw)


def _infer_grpc(content: Content, datatype: bytes, shape: tuple[int, ...], raw: bytes) -> Payload:
    """A ModelInferRequest after gRPC's five bytes of framing."""
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
    """A length-delimited field of a protobuf message."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def is_right(content: Content, answer: bytes) -> bool:
    """Whether an answer ends with the probabilities, or begins with the likeliest label."""
    size = content.probabilities.nbytes
    if len(answer) >= size:
        given = np.frombuffer(answer[-size:], np.float32)
        if np.allclose(given, content.probabilities[0], atol=1e-4):
            return True
    best = f"class-{content.probabilities.argmax()}".encode()
    return re.findall(rb"class-[0-9]+", answer)[:1] == [best]
