"""A real model repository, small: an ONNX graph whose answers can be computed by hand."""

import asyncio
import hashlib
import io
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
import uvicorn
from onnx import TensorProto, helper
from PIL import Image
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from keras_cnns_serve.compose import create_app
from keras_cnns_serve.core.dataplane import Dataplane
from keras_cnns_serve.transport.http.protocol import HttpProtocol

LABELS = [f"grey-{level}" for level in range(10)]


def graph(
    side: int = 8, extra_output: bool = False, nan: bool = False, fragile: bool = False
) -> bytes:
    """uint8 [N, side, side, 1] -> probabilities [N, 10]: the label is the mean pixel over 25.6.

    Args:
        side: pixels.
        extra_output: adds `logits`.
        nan: an all-black image has the probabilities NaN.
        fragile: an image whose first pixel is above 9 makes the run fail.
    """
    levels = np.arange(10, dtype=np.float32)
    weights = np.stack([2 * levels, -(levels**2)]).astype(np.float32)  # logits 2ml - l^2
    constants = {
        "scale": np.array([1 / 25.6], np.float32),
        "half": np.array([0.5], np.float32),
        "two": np.array([[0.0, 1.0]], np.float32),
        "pick": np.array([[1.0, 0.0]], np.float32),
        "weights": weights,
        "flat": np.array([-1, side * side]),
        "ten": np.arange(10, dtype=np.float32),
        "zero": np.array([0.0], np.float32),
        "first": np.array([0]),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["pixels", "flat"], ["rows"]),
        helper.make_node("ReduceMean", ["rows"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["mean", "scale"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "half"], ["level"]),
        helper.make_node("MatMul", ["level", "pick"], ["picked"]),
        helper.make_node("Add", ["picked", "two"], ["pair"]),
        helper.make_node("MatMul", ["pair", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["soft"], axis=1),
    ]
    last = "soft"
    if nan:
        nodes += [
            helper.make_node("Div", ["mean", "mean"], ["one_or_nan"]),
            helper.make_node("Mul", [last, "one_or_nan"], ["with_nan"]),
        ]
        last = "with_nan"
    if fragile:
        nodes += [
            helper.make_node("Cast", ["rows"], ["indices"], to=TensorProto.INT64),
            helper.make_node("Gather", ["indices", "first"], ["firsts"], axis=1),
            helper.make_node("Gather", ["ten", "firsts"], ["looked_up"]),
            helper.make_node("Mul", ["looked_up", "zero"], ["nothing"]),
            helper.make_node("Add", [last, "nothing"], ["with_lookup"]),
        ]
        last = "with_lookup"
    nodes.append(helper.make_node("Identity", [last], ["probabilities"]))
    outputs = ["probabilities", *(["logits"] if extra_output else [])]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "grey",
            [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", side, side, 1])],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 10]) for n in outputs],
            [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


# As an exporter would measure them; the probabilities of grey 0, 130 and 140 are 0.87, 0.47, 0.62.
CONFIDENCE = {
    "split": "validation",
    "samples": 1000,
    "thresholds": [
        {"min_accuracy": 0.95, "threshold": 0.5, "coverage": 0.8, "accuracy": 0.951},
        {"min_accuracy": 0.98, "threshold": 0.7, "coverage": 0.6, "accuracy": 0.983},
        {"min_accuracy": None, "threshold": 0.9, "coverage": 0.0, "accuracy": None},
    ],
}


def write_version(directory: Path, model: bytes | None = None, **changes: Any) -> Path:
    """Publishes a version as an exporter would; `changes` replace keys of model.json."""
    return publish(directory, {} if model is None else {"model.onnx": model}, **changes)


def publish(directory: Path, contents: dict[str, bytes], /, **changes: Any) -> Path:
    """Publishes a version with these files, besides the ONNX graph and the labels."""
    directory.mkdir(parents=True)
    labels = "".join(f"{label}\n" for label in LABELS).encode()
    files = {"model.onnx": graph(), "labels.txt": labels} | contents
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    manifest = {
        "format": 1,
        "name": directory.parent.name,
        "created": "2026-01-01T00:00:00Z",
        "model": {"architecture": "grey", "parameters": 20},
        "inputs": [{"name": "images", "dtype": "uint8", "shape": [None, 8, 8, 1]}],
        "outputs": [{"name": "probabilities", "dtype": "float32", "shape": [None, 10]}],
        "preprocessing": {
            "resize_shorter": 8,
            "crop": 8,
            "interpolation": "bilinear",
            "antialias": True,
            "channels": 1,
        },
        "labels": "labels.txt",
        "formats": {"onnx": {"path": "model.onnx", "opset": 17}},
        "metrics": None,
        "files": {
            name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
            for name, content in files.items()
        },
    } | changes
    (directory / "model.json").write_text(json.dumps(manifest))
    return directory


def grey(level: int, size: tuple[int, int] = (8, 8), encoding: str = "PNG") -> bytes:
    """An encoded image of one grey level, 0 to 255; the graph's label is level // 25.6."""
    buffer = io.BytesIO()
    Image.new("L", size, level).save(buffer, encoding)
    return buffer.getvalue()


OUTPUTS = [
    {"name": "probabilities", "dtype": "float32", "shape": [None, 10]},
    {"name": "logits", "dtype": "float32", "shape": [None, 10]},
]

CAM = {"name": "cam", "dtype": "float32", "shape": [None, 8, 8]}


def with_cam() -> bytes:
    """The graph with `logits`, and with `cam`: the pixels themselves."""
    model = onnx.load_from_string(graph(extra_output=True))
    model.graph.node.append(helper.make_node("Squeeze", ["pixels", "last"], ["cam"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([3]), "last"))
    cam = helper.make_tensor_value_info("cam", TensorProto.FLOAT, ["N", 8, 8])
    model.graph.output.append(cam)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """grey/1, grey/2 (tampered with), two/1 (two outputs), nan/1, fragile/1."""
    root = tmp_path_factory.mktemp("models")
    write_version(root / "grey" / "1")
    tampered = write_version(root / "grey" / "2") / "labels.txt"
    tampered.write_bytes(tampered.read_bytes().replace(b"grey-0", b"grey-X"))
    write_version(root / "two" / "1", graph(extra_output=True), outputs=OUTPUTS)
    write_version(root / "nan" / "1", graph(nan=True))
    write_version(root / "fragile" / "1", graph(fragile=True))
    return root


@pytest.fixture(scope="session")
def dataplane(repository: Path) -> Iterator[Dataplane]:
    dataplane = Dataplane.open(repository)
    yield dataplane
    dataplane.close(5)


class Client:
    """Speaks HTTP to an ASGI application, without a socket."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Sends one request; an exception in the application is a 500, as on a socket."""

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **options)

        return asyncio.run(send())

    def get(self, path: str) -> httpx.Response:
        return self.request("GET", path)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)


@pytest.fixture(scope="session")
def client(dataplane: Dataplane) -> Client:
    return Client(create_app(dataplane, max_body_bytes=100_000))


@asynccontextmanager
async def serving(app: ASGIApp, **options: Any) -> AsyncIterator[tuple[str, int, ServerState]]:
    """Serve the application on a real socket; yield host, port, uvicorn's connections and tasks."""
    config = uvicorn.Config(app, log_config=None, lifespan="off", **options)
    config.load()
    state = ServerState()
    make = partial(HttpProtocol, config, state, {})
    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    async with asyncio.timeout(20), server:
        host, port = server.sockets[0].getsockname()[:2]
        yield host, port, state
