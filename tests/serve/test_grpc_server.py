"""What every gRPC service has: hostile bytes, deadlines, cancelling, health, and the end."""

import asyncio
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from keras_cnns_serve.cli import main
from keras_cnns_serve.dataplane import Dataplane
from keras_cnns_serve.errors import QueueFullError
from keras_cnns_serve.grpc_app import create_grpc
from keras_cnns_serve.grpc_server import GrpcServer, Service
from keras_cnns_serve.protos import health, inference
from keras_cnns_serve.server import AddressError
from tests.serve.test_server import Process, running

Code = grpc.StatusCode
INFER = "/inference.GRPCInferenceService/ModelInfer"
PREDICT = "/tensorflow.serving.PredictionService/Predict"
CHECK = "/grpc.health.v1.Health/Check"


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Process]:
    with running(str(repository), "--max-body-bytes", "100000", "--versions", "all") as process:
        yield process


@pytest.fixture(scope="module")
def channel(server: Process) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.grpc) as channel:
        yield channel


def ask(channel: grpc.Channel, path: str, body: bytes, timeout: float = 10) -> bytes:
    """Sends bytes as they are."""
    return bytes(channel.unary_unary(path)(body, timeout=timeout))


def infer_request(level: int = 130, **fields: Any) -> bytes:
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 8, 8, 1]}
    message = inference.ModelInferRequest(
        **{"model_name": "grey", "inputs": [tensor], "raw_input_contents": [bytes([level]) * 64]}
        | fields
    )
    return bytes(message.SerializeToString())


def tensor(**fields: Any) -> dict[str, Any]:
    return {"name": "images", "datatype": "UINT8", "shape": [1, 8, 8, 1]} | fields


@pytest.mark.parametrize(
    ("path", "body", "code", "message"),
    [
        (INFER, b"\xff" * 4, Code.INVALID_ARGUMENT, "cannot be parsed"),
        (PREDICT, b"\x0a\xff\xff\xff\xff\x0f", Code.INVALID_ARGUMENT, "cannot be parsed"),
        (PREDICT, b"\x0a\x04\x0a\x02\xff\xfe", Code.INVALID_ARGUMENT, "cannot be parsed"),
        (INFER, b"", Code.NOT_FOUND, "Latest()"),
        (INFER, bytes(100_001), Code.RESOURCE_EXHAUSTED, "larger than max"),
        (INFER, infer_request(inputs=[]), Code.INVALID_ARGUMENT, "at least one tensor"),
        (INFER, infer_request(raw_input_contents=[b"", b""]), Code.INVALID_ARGUMENT, "2 tensors"),
        (INFER, infer_request(raw_input_contents=[b""]), Code.INVALID_ARGUMENT, "0 bytes, and 64"),
        (INFER, infer_request(raw_input_contents=[]), Code.INVALID_ARGUMENT, "0 values, and 64"),
        (
            INFER,
            infer_request(inputs=[tensor(contents={"uint_contents": [1]})]),
            Code.INVALID_ARGUMENT,
            "contents beside raw_input_contents",
        ),
        (
            INFER,
            infer_request(inputs=[tensor(shape=[2**62, 2**62, 4])]),
            Code.INVALID_ARGUMENT,
            "has more than",
        ),
        (
            INFER,
            infer_request(inputs=[tensor(shape=[-1, 8, 8, 1])]),
            Code.INVALID_ARGUMENT,
            "an integer of at least 0",
        ),
        (
            INFER,
            infer_request(inputs=[tensor(datatype="INT5")]),
            Code.INVALID_ARGUMENT,
            "the datatype 'INT5'",
        ),
        (
            INFER,
            infer_request(parameters={"timeout": {"string_param": "soon"}}),
            Code.INVALID_ARGUMENT,
            "the parameter timeout must be an integer",
        ),
        (
            INFER,
            infer_request(parameters={"priority": {"int64_param": -1}}),
            Code.INVALID_ARGUMENT,
            "the parameter priority must be an integer",
        ),
        ("/no.such.Service/Method", b"", Code.UNIMPLEMENTED, ""),
        ("/inference.GRPCInferenceService/TraceSetting", b"", Code.UNIMPLEMENTED, ""),
    ],
)
def test_what_is_wrong_gets_its_code(
    channel: grpc.Channel, path: str, body: bytes, code: Any, message: str
) -> None:
    with pytest.raises(grpc.RpcError) as error:
        ask(channel, path, body)
    assert error.value.code() == code
    assert message in error.value.details()
    assert ask(channel, INFER, infer_request())


@pytest.mark.parametrize(
    ("datatype", "contents"),
    [
        ("UINT8", {"uint_contents": [130] * 64}),
        ("INT16", {"int_contents": [130] * 64}),
        ("UINT64", {"uint64_contents": [130] * 64}),
        ("UINT8", {"uint_contents": [130] * 64 * 300}),
    ],
)
def test_contents_that_are_not_raw(
    channel: grpc.Channel, datatype: str, contents: dict[str, list[int]]
) -> None:
    count = len(next(iter(contents.values()))) // 64
    inputs = [tensor(datatype=datatype, shape=[count, 8, 8, 1], contents=contents)]
    body = ask(channel, INFER, infer_request(inputs=inputs, raw_input_contents=[]))
    response = inference.ModelInferResponse.FromString(body)
    assert response.outputs[0].name == "probabilities"
    assert len(response.raw_output_contents[0]) == 40 * count


def test_a_fault_of_the_server_is_explained_in_the_log_alone(server: Process) -> None:
    before = len(server.errors)
    with grpc.insecure_channel(server.grpc) as channel, pytest.raises(grpc.RpcError) as error:
        ask(channel, INFER, infer_request(200, model_name="fragile"))
    assert error.value.code() == Code.INTERNAL
    assert error.value.details() == "the server failed to answer; its log says why"
    time.sleep(0.2)
    assert any("out of data bounds" in line for line in server.errors[before:])


def status(channel: grpc.Channel, name: str) -> int:
    body = ask(channel, CHECK, health.HealthCheckRequest(service=name).SerializeToString())
    return int(health.HealthCheckResponse.FromString(body).status)


def test_health(channel: grpc.Channel) -> None:
    serving = health.HealthCheckResponse.SERVING
    for name in ("", "grey", "inference.GRPCInferenceService"):
        assert status(channel, name) == serving
    assert status(channel, "tensorflow.serving.PredictionService") == serving
    with pytest.raises(grpc.RpcError) as error:
        status(channel, "gray")
    assert error.value.code() == Code.NOT_FOUND


def test_watched_health_and_the_end(repository: Path) -> None:
    seen: list[int] = []
    with (
        running(str(repository / "grey"), "--grace", "20") as process,
        grpc.insecure_channel(process.grpc) as channel,
    ):
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=30)
        seen.append(health.HealthCheckResponse.FromString(next(watch)).status)
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        seen += [health.HealthCheckResponse.FromString(body).status for body in watch]
        assert process.stop() == 0
        assert time.monotonic() - started < 10  # the open stream does not use up the grace
    assert seen == [health.HealthCheckResponse.SERVING, health.HealthCheckResponse.NOT_SERVING]


def alone(*methods: Any, **options: Any) -> GrpcServer:
    """A server with methods of ours in place of ModelInfer and ModelReady."""
    names = ("ModelInfer", "ModelReady")
    unary = dict(zip(names, methods, strict=False))
    service = Service(inference.service("GRPCInferenceService"), unary)
    return GrpcServer([service], "127.0.0.1", 0, **{"max_message_bytes": 1000, **options})


def test_deadlines_and_cancelling() -> None:
    deadlines: list[float] = []
    events: list[str] = []

    async def slow(request: Any, deadline: float | None) -> Any:
        assert deadline is not None
        deadlines.append(deadline - time.monotonic())
        events.append("began")
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            events.append("cancelled")
            raise

    async def until(count: int) -> None:
        while len(events) < count:
            await asyncio.sleep(0.01)

    async def main() -> None:
        async with alone(slow, timeout=5) as server, grpc.aio.insecure_channel(server.address) as c:
            for number, timeout in enumerate((None, 100, 0.5)):
                call = c.unary_unary(INFER)(b"", timeout=timeout)
                await until(2 * number + 1)
                if timeout == 0.5:
                    with pytest.raises(grpc.aio.AioRpcError):
                        await call
                call.cancel()
                await until(2 * number + 2)

    asyncio.run(asyncio.wait_for(main(), 30))
    assert events == ["began", "cancelled"] * 3
    for seconds, limit in zip(deadlines, (5, 5, 0.5), strict=True):
        assert 0 < seconds < limit + 0.1


def test_every_call_is_noted_with_its_end() -> None:
    noted: list[tuple[str, str]] = []

    def finished(path: str, peer: str, code: str, seconds: float) -> None:
        assert "127.0.0.1" in peer
        assert 0 <= seconds < 10
        noted.append((path.rpartition("/")[2], code))

    async def right(request: Any, deadline: float | None) -> Any:
        return inference.ModelReadyResponse()

    async def full_or_slow(request: Any, deadline: float | None) -> Any:
        if not deadline:
            raise QueueFullError("full", 1)
        await asyncio.sleep(20)

    async def main() -> None:
        async with (
            alone(full_or_slow, right, finished=finished) as server,
            grpc.aio.insecure_channel(server.address) as channel,
        ):
            await channel.unary_unary("/inference.GRPCInferenceService/ModelReady")(b"")
            for timeout in (None, 0.2):
                with pytest.raises(grpc.aio.AioRpcError):
                    await channel.unary_unary(INFER)(b"", timeout=timeout)
            async with asyncio.timeout(10):
                while len(noted) < 3:
                    await asyncio.sleep(0.01)

    asyncio.run(main())
    assert noted == [
        ("ModelReady", "OK"),
        ("ModelInfer", "RESOURCE_EXHAUSTED"),
        ("ModelInfer", "DEADLINE_EXCEEDED"),
    ]


def test_a_full_queue_says_when_to_come_back() -> None:
    async def full(request: Any, deadline: float | None) -> Any:
        raise QueueFullError("1,024 requests wait", 1.5)

    async def main() -> None:
        async with alone(full) as server, grpc.aio.insecure_channel(server.address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await channel.unary_unary(INFER)(b"")
            assert error.value.code() == Code.RESOURCE_EXHAUSTED
            assert error.value.details() == "1,024 requests wait"
            metadata = dict(error.value.trailing_metadata() or ())
            assert metadata["grpc-retry-pushback-ms"] == "1500"

    asyncio.run(asyncio.wait_for(main(), 30))


def test_what_is_in_flight_is_finished_first() -> None:
    began = threading.Event()

    async def slow(request: Any, deadline: float | None) -> Any:
        began.set()
        await asyncio.sleep(0.3)
        return inference.ModelInferResponse(id="done")

    async def main() -> None:
        server = alone(slow, grace=10)
        async with server, grpc.aio.insecure_channel(server.address) as channel:
            call = asyncio.ensure_future(channel.unary_unary(INFER)(b""))
            await asyncio.to_thread(began.wait, 10)
            stopped = asyncio.ensure_future(server.__aexit__())
            assert inference.ModelInferResponse.FromString(await call).id == "done"
            await stopped

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_port_that_is_taken(dataplane: Dataplane, capsys: pytest.CaptureFixture[str]) -> None:
    async def enter(port: int) -> None:
        async with create_grpc(dataplane, "127.0.0.1", port, max_message_bytes=1000):
            pass

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            AddressError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"
        ):
            asyncio.run(enter(port))
        assert main(["no-models", "--port", "0", "--grpc-port", str(port)]) == 1
    assert (
        f"127.0.0.1:{port}: Address already in use; --grpc-port 0 picks" in capsys.readouterr().err
    )


def test_grpc_can_be_off(repository: Path) -> None:
    with running(str(repository / "grey"), "--grpc-port", "off") as process:
        assert not [line for line in process.lines if line.startswith("gRPC")]
