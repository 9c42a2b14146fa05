"""The servers: start each of them, check its responses, and measure its memory."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime
from payloads import (
    Content,
    Payload,
    image_body,
    image_grpc,
    image_json,
    image_v2,
    is_right,
    tensor_grpc,
    tensor_v2,
)
from PIL import Image

from keras_cnns_serve.images.decoding import read_image
from keras_cnns_serve.repository.manifest import read_manifest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ENVIRONMENTS = ROOT / ".venv-peers"
MODELS = ENVIRONMENTS / "models"
OURS = "ours"
BARE_LOOP = "bare loop"
SIZES = {"resnet20": (32, 32), "resnet50": (500, 375)}  # width and height of the JPEG
START_SECONDS = 60.0

Request = Callable[[Content], Payload]


@dataclass(frozen=True)
class Server:
    """The command that starts a server, and the requests that the server supports."""

    command: tuple[str, ...]  # `start` fills in {python}, {here}, {version}, {model}, {port}, ...
    requests: dict[str, Request]  # kind of request ("image", "tensor", ...) -> its creation


def peer(name: str, **requests: Request) -> Server:
    program = f"{{here}}/{name}_server.py"
    return Server(("{python}", program, "{version}", "{port}", "{grpc_port}"), requests)


SERVERS = {
    OURS: Server(
        ("{bin}/keras-cnns-serve", "{model}", "--port", "{port}", "--grpc-port", "{grpc_port}"),
        {
            "image": image_body("/v1/models/{model}:classify-image?top_k=5"),
            "tensor": tensor_v2,
            "grpc": tensor_grpc,
            "image_grpc": image_grpc,
        },
    ),
    "litserve": peer("litserve", image=image_json("/predict")),
    "mlserver": peer("mlserver", image=image_body("/classify"), grpc=tensor_grpc),
    "bentoml": peer("bentoml", image=image_body("/classify")),
    "triton": peer("triton", image=image_v2, tensor=tensor_v2, grpc=tensor_grpc),
}


@dataclass
class Running:
    """A server that has given its first correct response."""

    process: subprocess.Popen[bytes]
    port: int
    grpc_port: int
    seconds: float  # from its start to its first correct response
    answers: dict[str, int] = field(default_factory=dict)  # path -> bytes of a correct response

    def megabytes(self) -> float:
        """Return the memory of the server's processes; shared memory counts once."""
        return sum(map(_proportional_kilobytes, _family(self.process.pid))) / 1e3


def environment(name: str) -> Path:
    """Return the directory of a server's environment."""
    return ENVIRONMENTS / (OURS if name == BARE_LOOP else name)


def variables() -> dict[str, str]:
    """Return the environment variables of every server.

    The servers can import the decoder, and libraries with OpenMP start no threads.
    """
    return os.environ | {"PYTHONPATH": str(ROOT / "serve"), "OMP_NUM_THREADS": "1"}


def content_of(model: str) -> Content:
    """Return a JPEG that resembles a photograph, with the model's probabilities for it."""
    directory = MODELS / model / "1"
    width, height = SIZES[model]
    across, down = np.meshgrid(np.linspace(0, 9, width), np.linspace(0, 7, height))
    waves = np.stack([np.sin(across), np.cos(down), np.sin(across + down)], -1) * 60 + 128
    noise = np.random.default_rng(0).normal(0, 8, waves.shape)
    with tempfile.TemporaryFile() as file:
        Image.fromarray((waves + noise).clip(0, 255).astype(np.uint8)).save(file, "JPEG")
        file.seek(0)
        image = file.read()
    pixels = read_image(image, read_manifest(directory / "model.json").preprocessing)[None]
    session = onnxruntime.InferenceSession(directory / "model.onnx")
    return Content(model, image, pixels, session.run(["probabilities"], {"images": pixels})[0])


@contextlib.contextmanager
def start(name: str, content: Content, *options: str) -> Iterator[Running]:
    """Start a server, wait for its first correct response, and end all its processes afterwards."""
    server, (port, grpc_port) = SERVERS[name], _free_ports(2)
    places = {
        "bin": environment(name) / "bin",
        "python": environment(name) / "bin" / "python",
        "here": HERE,
        "model": MODELS / content.model,
        "version": MODELS / content.model / "1",
        "port": port,
        "grpc_port": grpc_port,
    }
    command = [part.format(**places) for part in server.command] + list(options)
    began = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, env=variables(), stdout=log, stderr=log, start_new_session=True
        )
        try:
            payload = server.requests["image"](content)
            while not is_right(content, _answer(port, payload)):
                if process.poll() is not None or time.perf_counter() - began > START_SECONDS:
                    log.seek(0)
                    sys.exit(
                        f"{name} gave no correct response within {START_SECONDS:.0f} s, or ended; "
                        f"the end of its log is: {log.read().decode()[-3000:]}"
                    )
                time.sleep(0.01)
            yield Running(process, port, grpc_port, time.perf_counter() - began)
        finally:
            family = _family(process.pid)
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            for each in family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
            process.wait()


def check(content: Content, payload: Payload, running: Running) -> int:
    """Return the bytes of the response to a request; exit if the response is wrong."""
    answer = _grpc(running.grpc_port, payload) if payload.grpc else _answer(running.port, payload)
    if not is_right(content, answer):
        sys.exit(f"the response to {payload.path} is wrong; it begins with {answer[:300]!r}")
    return len(answer) + (5 if payload.grpc else 0)


def _answer(port: int, payload: Payload) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)
    try:
        connection.request("POST", payload.path, payload.body, payload.headers)
        return connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return b""
    finally:
        connection.close()


def _grpc(port: int, payload: Payload) -> bytes:
    import grpc

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer: bytes = channel.unary_unary(payload.path)(payload.body[5:], timeout=START_SECONDS)
        return answer


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _family(process: int) -> list[int]:
    """Return the ids of a process and of all its descendants."""
    children = Path(f"/proc/{process}/task/{process}/children")
    found = [process]
    with contextlib.suppress(OSError):
        for task in children.parents[1].iterdir():
            for child in (task / "children").read_text().split():
                found += _family(int(child))
    return found


def _proportional_kilobytes(process: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0
