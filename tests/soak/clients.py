"""Clients of the five protocols, and a load of them that runs beside a test."""

import asyncio
import io
import json
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import grpc
import grpc.aio
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from keras_cnns_serve.protos import inference, tensorflow_serving

from .payloads import BOUNDARY
from .target import HOST, INFER, PREDICT

TOLERANCE = 1e-3  # of a probability: a batch of another size rounds otherwise
LIMIT = 10.0  # seconds, after which a request without an answer has failed
FORM = f"multipart/form-data; boundary={BOUNDARY}"
PROTOCOLS = ("v1-rest", "v2-rest", "v1-grpc", "v2-grpc", "classify-image")

Pixels = NDArray[np.uint8]  # [N, H, W, 1]
Scores = NDArray[np.float32]  # [N, 10]
Record = tuple[float, float, str]  # when a request was due, its wait, and what was wrong


class RefusedError(Exception):
    """The status was not 200, or OK."""


def body_of(protocol: str, model: str, pixels: Pixels) -> bytes:
    """Return the request for these images."""
    shape = list(pixels.shape)
    match protocol:
        case "v1-rest":
            return json.dumps({"instances": pixels.tolist()}).encode()
        case "v2-rest":
            tensor = {"name": "images", "datatype": "UINT8", "shape": shape}
            data = pixels.ravel().tolist()
            return json.dumps({"inputs": [tensor | {"data": data}]}).encode()
        case "v1-grpc":
            dims = {"dim": [{"size": size} for size in shape]}
            content = {"dtype": 4, "tensor_shape": dims, "tensor_content": pixels.tobytes()}
            v1 = tensorflow_serving.PredictRequest(
                model_spec={"name": model}, inputs={"images": content}
            )
            return bytes(v1.SerializeToString())
        case "v2-grpc":
            tensor = {"name": "images", "datatype": "UINT8", "shape": shape}
            v2 = inference.ModelInferRequest(
                model_name=model, inputs=[tensor], raw_input_contents=[pixels.tobytes()]
            )
            return bytes(v2.SerializeToString())
    parts = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n'.encode()
        + _png(image)
        + b"\r\n"
        for image in pixels
    )
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def _png(image: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0]).save(buffer, "PNG")
    return buffer.getvalue()


def scores_of(protocol: str, answer: bytes) -> Scores:
    """Return the probabilities in an answer."""
    match protocol:
        case "v1-rest":
            return np.array(json.loads(answer)["predictions"], np.float32)
        case "v2-rest":
            values = json.loads(answer)["outputs"][0]["data"]
        case "v1-grpc":
            outputs = tensorflow_serving.PredictResponse.FromString(answer).outputs
            tensor = outputs["probabilities"]
            values = np.frombuffer(tensor.tensor_content, np.float32)
            values = values if values.size else tensor.float_val
        case "v2-grpc":
            [raw] = inference.ModelInferResponse.FromString(answer).raw_output_contents
            values = np.frombuffer(raw, np.float32)
        case _:
            values = [
                [label["probability"] for label in sorted(each["labels"], key=_label)]
                for each in json.loads(answer)["predictions"]
            ]
    return np.array(values, np.float32).reshape(-1, 10)


def _label(entry: dict[str, Any]) -> str:
    return str(entry["label"])


class Clients:
    """Connections to both ports. HTTP has one for each request in flight, and uses them again."""

    def __init__(self, http_port: int, grpc_port: int, model: str = "digits") -> None:
        self.model = model
        self._http_port, self._grpc_port = http_port, grpc_port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def __aenter__(self) -> "Clients":
        options = [("grpc.use_local_subchannel_pool", 1)]  # or a dead server's backoff is shared
        self._channel = grpc.aio.insecure_channel(f"{HOST}:{self._grpc_port}", options)
        return self

    async def __aexit__(self, *error: object) -> None:
        for _, writer in self._idle:
            writer.transport.abort()
        await self._channel.close()

    async def ask(self, protocol: str, body: bytes) -> bytes:
        """Send a request and return the answer.

        Raises:
            RefusedError: the server refused it, with this status.
            OSError, EOFError: the connection was lost.
            TimeoutError: there was no answer in time.
        """
        async with asyncio.timeout(LIMIT):
            match protocol:
                case "v1-grpc" | "v2-grpc":
                    path = PREDICT if protocol == "v1-grpc" else INFER
                    try:
                        return bytes(await self._channel.unary_unary(path)(body))
                    except grpc.aio.AioRpcError as error:
                        raise RefusedError(f"{error.code().name} {error.details()}") from None
                case "v1-rest":
                    return await self._post(f"/v1/models/{self.model}:predict", body)
                case "v2-rest":
                    return await self._post(f"/v2/models/{self.model}/infer", body)
            path = f"/v1/models/{self.model}:classify-image?top_k=10"
            return await self._post(path, body, FORM)

    async def _post(self, path: str, body: bytes, content_type: str = "application/json") -> bytes:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\n"
        request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        if self._idle:
            reader, writer = self._idle.pop()
        else:
            reader, writer = await asyncio.open_connection(HOST, self._http_port)
        try:
            writer.write(request)
            received = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = int(received.partition("content-length:")[2].split()[0])
            answer = await reader.readexactly(length)
        except BaseException:
            writer.transport.abort()
            raise
        if "connection: close" in received:
            writer.transport.abort()
        else:
            self._idle.append((reader, writer))
        if not received.startswith("http/1.1 200"):
            raise RefusedError(f"{received.split()[1]} {answer.decode(errors='replace')}")
        return answer


async def check(
    ask: Callable[[], Awaitable[bytes]], protocol: str, right: Scores, tolerance: float = TOLERANCE
) -> str:
    """Ask, and return what was wrong with the answer: nothing is right."""
    try:
        scores = scores_of(protocol, await ask())
    except Exception as error:
        return f"{protocol}: {type(error).__name__}: {error!s:.160}"
    if scores.shape != right.shape or np.abs(scores - right).max() > tolerance:
        return f"{protocol}: wrong answer: {scores.tolist()!s:.200}"
    return ""


class Load:
    """Clients that ask again and again while the context is entered, each through all protocols.

    Args:
        ports: of HTTP and gRPC.
        pixels: the images, [N, H, W, 1]; a request has one of them.
        right: their probabilities, [N, 10].
        clients: how many ask at the same time.
        pause: seconds between an answer and the client's next request.
    """

    def __init__(
        self,
        ports: tuple[int, int],
        pixels: Pixels,
        right: Scores,
        clients: int = 8,
        pause: float = 0.01,
    ) -> None:
        self.records: list[Record] = []
        self._ports, self._right, self._clients, self._pause = ports, right, clients, pause
        self._bodies = {
            protocol: [body_of(protocol, "digits", image[np.newaxis]) for image in pixels]
            for protocol in PROTOCOLS
        }
        self._stopping = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopping = True
        self._thread.join()

    def problems(self) -> list[str]:
        """Return what was wrong with any answer so far."""
        return [wrong for _, _, wrong in self.records if wrong]

    async def _run(self) -> None:
        async with Clients(*self._ports) as clients, asyncio.TaskGroup() as group:
            for index in range(self._clients):
                group.create_task(self._client(clients, index))

    async def _client(self, clients: Clients, turn: int) -> None:
        while not self._stopping:
            protocol = PROTOCOLS[turn % len(PROTOCOLS)]
            image = turn // len(PROTOCOLS) % len(self._right)
            body, right = self._bodies[protocol][image], self._right[image : image + 1]
            start = time.monotonic()
            wrong = await check(partial(clients.ask, protocol, body), protocol, right)
            self.records.append((start, time.monotonic() - start, wrong))
            turn += 1
            await asyncio.sleep(max(self._pause, 0.05 * bool(wrong)))


def p99(records: Sequence[Record], start: float, end: float) -> float:
    """Return the milliseconds within which 99 % of a phase's answers came."""
    waits = sorted(wait for due, wait, _ in records if start <= due < end)
    return 1000 * waits[int(len(waits) * 0.99)]
