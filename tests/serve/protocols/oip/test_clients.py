"""The Open Inference Protocol, asked by Triton's own clients: HTTP and gRPC, sync and asyncio."""

import asyncio
import inspect
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException

from tests.serve.conftest import OUTPUTS, graph, grey, write_version
from tests.serve.processes import Process, running

CLIENTS = [
    tritonclient.http,
    tritonclient.http.aio,
    tritonclient.grpc,
    tritonclient.grpc.aio,
]
PIXELS = np.stack([np.full((8, 8, 1), level, np.uint8) for level in (130, 0)])
IMAGES = np.array([grey(130), grey(0)], np.object_)
GREY_5 = b"0.472247:5:grey-5"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    root = tmp_path_factory.mktemp("v2")
    write_version(root / "grey" / "1")
    write_version(root / "two" / "1", graph(extra_output=True), outputs=OUTPUTS)
    with running(str(root), "--admin", "--versions", "all", "--poll", "0") as process:
        yield process


class Triton:
    """Any of Triton's clients; the coroutines of the asyncio clients are run to their end."""

    def __init__(self, module: ModuleType, server: Process) -> None:
        self.module = module
        self.http = ".http" in module.__name__
        self._loop = asyncio.new_event_loop()
        address = f"127.0.0.1:{server.port}" if self.http else server.grpc
        self._client = self._run(self._make(address))

    async def _make(self, address: str) -> Any:
        return self.module.InferenceServerClient(address)

    def _run(self, coroutine: Any) -> Any:
        return self._loop.run_until_complete(coroutine)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        def call(*arguments: Any, **options: Any) -> Any:
            result = method(*arguments, **options)
            return self._run(result) if inspect.isawaitable(result) else result

        return call

    def json(self, name: str, *arguments: Any) -> Any:
        """An answer as JSON, from gRPC too."""
        if self.http:
            return getattr(self, name)(*arguments)
        return getattr(self, name)(*arguments, as_json=True)

    def input(self, name: str, values: np.ndarray[Any, Any], datatype: str, **options: Any) -> Any:
        tensor = self.module.InferInput(name, list(values.shape), datatype)
        tensor.set_data_from_numpy(values, **(options if self.http else {}))
        return tensor

    def output(self, name: str, **options: Any) -> Any:
        if not self.http:
            options.pop("binary_data", None)
        return self.module.InferRequestedOutput(name, **options)

    def end(self) -> None:
        self._run(asyncio.sleep(0.01))  # its client leaves some answers for later to be read
        self.close()
        self._loop.close()


@pytest.fixture(params=CLIENTS, ids=lambda module: module.__name__)
def triton(request: pytest.FixtureRequest, server: Process) -> Iterator[Triton]:
    client = Triton(request.param, server)
    yield client
    client.end()


def test_a_threshold_adds_whether_an_image_is_unknown(triton: Triton) -> None:
    images = triton.input("images", PIXELS, "UINT8")
    for outputs in (None, [triton.output("probabilities", class_count=1)]):
        found = triton.infer(
            "grey", [images], outputs=outputs, parameters={"min_probability": "0.6"}
        )
        assert found.as_numpy("unknown").tolist() == [True, False]
    assert triton.infer("grey", [images]).as_numpy("unknown") is None
    with pytest.raises(InferenceServerException, match="must be a number from 0 to 1, not 60"):
        triton.infer("grey", [images], parameters={"min_probability": 60})


def test_health(triton: Triton) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("grey")
    assert triton.is_model_ready("grey", "1")
    assert not triton.is_model_ready("gray")
    assert not triton.is_model_ready("grey", "3")


def test_metadata(triton: Triton) -> None:
    assert triton.json("get_server_metadata")["name"] == "keras-cnns-serve"
    metadata = triton.json("get_model_metadata", "two", "1")
    assert metadata["name"] == "two"
    assert metadata["versions"] == ["1"]
    assert [tensor["name"] for tensor in metadata["outputs"]] == ["probabilities", "logits"]
    (images,) = metadata["inputs"]
    assert (images["name"], images["datatype"]) == ("images", "UINT8")
    assert list(map(int, images["shape"])) == [-1, 8, 8, 1]


def test_config(triton: Triton) -> None:
    config = triton.json("get_model_config", "grey")
    config = config.get("config", config)
    assert config["max_batch_size"] > 1
    assert config["input"][0]["data_type"] == "TYPE_UINT8"
    assert config["output"][0]["label_filename"] == "labels.txt"
    assert config["default_model_filename"] == "model.onnx"
    assert config["parameters"]["engine"] == {"string_value": "onnxruntime"}


@pytest.mark.parametrize("datatype", ["UINT8", "UINT16", "INT64"])
@pytest.mark.parametrize("binary", [True, False])
def test_infer(triton: Triton, datatype: str, binary: bool) -> None:
    values = PIXELS.astype(datatype.lower())
    tensor = triton.input("images", values, datatype, binary_data=binary)
    outputs = None if binary else [triton.output("probabilities", binary_data=False)]
    result = triton.infer("grey", [tensor], outputs=outputs, request_id="7")
    probabilities = result.as_numpy("probabilities")
    assert probabilities.shape == (2, 10)
    assert probabilities.dtype == np.float32
    assert probabilities[0, 5] == np.float32(0.47224745)
    assert probabilities.argmax(axis=1).tolist() == [5, 0]
    response = result.get_response() if triton.http else result.get_response(as_json=True)
    assert (response["model_name"], response["model_version"]) == ("grey", "1")
    assert response["id"] == "7"


@pytest.mark.parametrize("name", ["images", "image_bytes"])
@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_encoded_images(triton: Triton, name: str, shape: tuple[int, ...]) -> None:
    tensor = triton.input(name, IMAGES.reshape(shape), "BYTES")
    result = triton.infer("grey", [tensor], model_version="1")
    assert result.as_numpy("probabilities").argmax(axis=1).tolist() == [5, 0]


@pytest.mark.parametrize("binary", [True, False])
def test_classification(triton: Triton, binary: bool) -> None:
    outputs = [
        triton.output("probabilities", class_count=2, binary_data=binary),
        triton.output("logits", binary_data=not binary),
    ]
    result = triton.infer("two", [triton.input("images", PIXELS, "UINT8")], outputs=outputs)
    classes = result.as_numpy("probabilities")
    assert classes.shape == (2, 2)
    first = classes[0, 0] if isinstance(classes[0, 0], bytes) else classes[0, 0].encode()
    assert first == GREY_5
    assert result.as_numpy("logits").shape == (2, 10)


def test_only_the_outputs_that_are_asked_for(triton: Triton) -> None:
    tensor = triton.input("images", PIXELS, "UINT8")
    result = triton.infer("two", [tensor], outputs=[triton.output("logits")])
    assert result.as_numpy("logits").shape == (2, 10)
    assert result.as_numpy("probabilities") is None


def test_timeout_and_priority(triton: Triton) -> None:
    tensor = triton.input("images", PIXELS, "UINT8")
    result = triton.infer("grey", [tensor], timeout=5_000_000, priority=1)
    assert result.as_numpy("probabilities").shape == (2, 10)
    with pytest.raises(InferenceServerException) as error:
        triton.infer("grey", [tensor], timeout=1)
    assert error.value.status() == ("504" if triton.http else "StatusCode.DEADLINE_EXCEEDED")


@pytest.mark.parametrize(
    ("model", "version", "name", "outputs", "http", "grpc", "message"),
    [
        ("gray", "", "images", None, "404", "NOT_FOUND", "gray"),
        ("grey", "3", "images", None, "404", "NOT_FOUND", "3"),
        ("grey", "x", "images", None, "404", "NOT_FOUND", "a version is an integer, not 'x'"),
        (
            "grey",
            "",
            "pixels",
            None,
            "400",
            "INVALID_ARGUMENT",
            "only input must be images, not pixels",
        ),
        ("grey", "", "images", ["x"], "400", "INVALID_ARGUMENT", "there is no output 'x'"),
        ("grey", "", "images", ["probabilities"] * 2, "400", "INVALID_ARGUMENT", "twice"),
    ],
)
def test_errors(
    triton: Triton,
    model: str,
    version: str,
    name: str,
    outputs: list[str] | None,
    http: str,
    grpc: str,
    message: str,
) -> None:
    wanted = None if outputs is None else [triton.output(each) for each in outputs]
    with pytest.raises(InferenceServerException) as error:
        triton.infer(
            model,
            [triton.input(name, PIXELS, "UINT8")],
            model_version=version,
            outputs=wanted,
        )
    assert error.value.status() == (http if triton.http else f"StatusCode.{grpc}")
    assert message in error.value.message()


def test_whole_numbers_may_come_as_floats(triton: Triton) -> None:
    pixels = triton.input("images", PIXELS.astype(np.float32), "FP32")
    answer = triton.infer("grey", [pixels])
    assert answer.as_numpy("probabilities").argmax(axis=1).tolist() == [5, 0]


def test_wrong_pixels(triton: Triton) -> None:
    wrong: list[tuple[Any, str, str]] = [
        (PIXELS[:, :7], "UINT8", "not of shape [2, 7, 8, 1]"),
        ((PIXELS / 255).astype(np.float32), "FP32", "; the graph itself normalises them"),
        (PIXELS.astype(np.int64) + 200, "INT64", "not 330"),
        (np.array([b"no image", b""], np.object_), "BYTES", "not an image"),
    ]
    for values, datatype, message in wrong:
        with pytest.raises(InferenceServerException) as error:
            triton.infer("grey", [triton.input("images", values, datatype)])
        assert message in error.value.message()


def test_shared_memory_is_refused(triton: Triton) -> None:
    tensor = triton.module.InferInput("images", [1, 8, 8, 1], "UINT8")
    tensor.set_shared_memory("region", 64)
    with pytest.raises(InferenceServerException, match="images is in shared memory"):
        triton.infer("grey", [tensor])


def test_repository(triton: Triton) -> None:
    def states() -> dict[str, str]:
        index = triton.json("get_model_repository_index")
        models = index if triton.http else index["models"]
        return {model["name"]: model["state"] for model in models}

    assert states() == {"grey": "READY", "two": "READY"}
    triton.unload_model("two")
    assert not triton.is_model_ready("two")
    for _ in range(100):  # what is in flight is finished first
        if states()["two"] != "UNLOADING":
            break
        time.sleep(0.05)
    assert states() == {"grey": "READY", "two": "UNAVAILABLE"}
    with pytest.raises(InferenceServerException):
        triton.infer("two", [triton.input("images", PIXELS, "UINT8")])
    triton.load_model("two")
    assert triton.is_model_ready("two")
    assert states() == {"grey": "READY", "two": "READY"}
    with pytest.raises(InferenceServerException, match="gray"):
        triton.load_model("gray")
    with pytest.raises(InferenceServerException, match="parameters are not supported"):
        triton.load_model("two", config="{}")


def test_statistics(triton: Triton) -> None:
    def count(*model: str) -> tuple[int, int]:
        (found,) = [
            each
            for each in triton.json("get_inference_statistics", *model)["model_stats"]
            if each["name"] == "grey"
        ]
        return int(found["inference_stats"]["success"]["count"]), int(found["inference_count"])

    triton.infer("grey", [triton.input("images", PIXELS, "UINT8")])
    requests, images = count("grey", "1")
    triton.infer("grey", [triton.input("images", PIXELS, "UINT8")])
    assert count() == (requests + 1, images + 2)


@pytest.mark.parametrize("module", [tritonclient.http, tritonclient.http.aio])
@pytest.mark.parametrize("packing", ["gzip", "deflate"])
def test_packed_bodies(module: ModuleType, packing: str, server: Process) -> None:
    client = Triton(module, server)
    result = client.infer(
        "grey",
        [client.input("images", PIXELS, "UINT8")],
        request_compression_algorithm=packing,
        response_compression_algorithm=packing,
    )
    assert result.as_numpy("probabilities").argmax(axis=1).tolist() == [5, 0]
    client.end()


def test_many_at_a_time_get_their_own_answers(server: Process) -> None:
    with tritonclient.http.InferenceServerClient(
        f"127.0.0.1:{server.port}", concurrency=8
    ) as client:
        waiting = []
        for level in range(0, 250, 5):
            tensor = tritonclient.http.InferInput("images", [1, 8, 8, 1], "UINT8")
            tensor.set_data_from_numpy(np.full((1, 8, 8, 1), level, np.uint8))
            waiting.append((level, client.async_infer("grey", [tensor])))
        for level, request in waiting:
            best = request.get_result().as_numpy("probabilities").argmax()
            assert best == int(level / 25.6)


def test_a_stream(server: Process) -> None:
    results: list[tuple[Any, Any]] = []
    with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
        client.start_stream(lambda result, error: results.append((result, error)))
        for model in ("grey", "gray", "grey"):
            tensor = tritonclient.grpc.InferInput("images", [2, 8, 8, 1], "UINT8")
            tensor.set_data_from_numpy(PIXELS)
            client.async_stream_infer(model, [tensor])
        client.stop_stream()
    (first, none), (_, error), (last, also_none) = results
    assert none is None
    assert also_none is None
    assert "gray" in str(error)
    for result in (first, last):
        assert result.as_numpy("probabilities").argmax(axis=1).tolist() == [5, 0]


def test_messages_above_4_mb(server: Process) -> None:
    pixels = np.zeros((100_000, 8, 8, 1), np.uint8)
    with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
        tensor = tritonclient.grpc.InferInput("images", list(pixels.shape), "UINT8")
        tensor.set_data_from_numpy(pixels)
        result = client.infer("grey", [tensor])
    assert result.as_numpy("probabilities").shape == (100_000, 10)


def test_without_admin_nothing_is_changed(repository: Path) -> None:
    with running(str(repository / "grey")) as process:
        for module in (tritonclient.http, tritonclient.grpc):
            client = Triton(module, process)
            for change in (client.load_model, client.unload_model):
                with pytest.raises(InferenceServerException) as error:
                    change("grey")
                assert "--admin" in error.value.message()
                assert error.value.status() in ("403", "StatusCode.PERMISSION_DENIED")
            assert client.is_model_ready("grey")
            client.end()
