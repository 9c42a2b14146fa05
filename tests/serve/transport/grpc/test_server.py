"""What every gRPC service has: hostile bytes, deadlines, health, limits, reflection, the end."""

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import struct
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from opentelemetry.instrumentation.grpc import aio_server_interceptor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from keras_cnns_serve.cli import main
from keras_cnns_serve.compose import create_grpc
from keras_cnns_serve.core.dataplane import Dataplane
from keras_cnns_serve.core.limits import Budget
from keras_cnns_serve.errors import QueueFullError
from keras_cnns_serve.protos import health, inference, pool
from keras_cnns_serve.transport.addresses import AddressError
from keras_cnns_serve.transport.grpc.server import ConnectionLimits, GrpcServer, Service
from tests.serve.processes import Process, running
from tests.serve.transport.grpc.frames import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    SETTINGS,
    WINDOW_UPDATE,
    Client,
    call_headers,
    connect,
    frame,
)

Code = grpc.StatusCode
INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
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
        (
            INFER,
            infer_request(raw_input_contents=[b"", b""]),
            Code.INVALID_ARGUMENT,
            "but it has 2",
        ),
        (
            INFER,
            infer_request(raw_input_contents=[b""]),
            Code.INVALID_ARGUMENT,
            "0 bytes, but its shape needs 64",
        ),
        (
            INFER,
            infer_request(raw_input_contents=[]),
            Code.INVALID_ARGUMENT,
            "0 values, but its shape needs 64",
        ),
        (
            INFER,
            infer_request(inputs=[tensor(contents={"uint_contents": [1]})]),
            Code.INVALID_ARGUMENT,
            "both contents and raw_input_contents",
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
            alone(full_or_slow, right, on_response=finished) as server,
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


def test_an_answer_that_is_too_long_is_an_error() -> None:
    async def long(request: Any, deadline: float | None) -> Any:
        return inference.ModelInferResponse(id="x" * 2000)

    async def main() -> None:
        for answer_bytes in (3000, 1000):
            limits = ConnectionLimits(response_bytes=answer_bytes)
            async with (
                alone(long, limits=limits) as server,
                grpc.aio.insecure_channel(server.address) as channel,
            ):
                call = channel.unary_unary(INFER)(b"")
                if answer_bytes > 2000:
                    assert len(await call) > 2000
                    continue
                with pytest.raises(grpc.aio.AioRpcError, match="larger than max") as error:
                    await call
                assert error.value.code() == Code.RESOURCE_EXHAUSTED

    asyncio.run(asyncio.wait_for(main(), 10))


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


async def echo(request: Any, deadline: float | None) -> Any:
    return inference.ModelInferResponse(id=request.id)


def peak_memory(server: Process) -> int:
    """Return the peak memory of a process, in bytes."""
    status = Path(f"/proc/{server._popen.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_a_message_that_unpacks_to_too_much_takes_no_memory(
    server: Process, channel: grpc.Channel, compression: grpc.Compression
) -> None:
    assert ask(channel, INFER, infer_request())
    before = peak_memory(server)
    with pytest.raises(grpc.RpcError) as error:
        channel.unary_unary(INFER)(bytes(32_000_000), compression=compression, timeout=10)
    assert error.value.code() == Code.INVALID_ARGUMENT
    assert "has more than 100,000 bytes after decompression" in (error.value.details() or "")
    assert peak_memory(server) - before < 8_000_000


def test_an_answer_may_be_longer_than_a_request() -> None:
    async def long(request: Any, deadline: float | None) -> Any:
        return inference.ModelInferResponse(id="a" * 5_000_000)

    async def main() -> None:
        options = [("grpc.max_receive_message_length", -1)]
        async with (
            alone(long) as server,
            grpc.aio.insecure_channel(server.address, options) as channel,
        ):
            assert len(await channel.unary_unary(INFER)(b"")) > 5_000_000

    asyncio.run(asyncio.wait_for(main(), 30))


def test_headers_that_are_too_long_refuse_their_call_alone() -> None:
    async def main() -> None:
        async with alone(echo) as server, grpc.aio.insecure_channel(server.address) as channel:
            call = channel.unary_unary(INFER)
            for _ in range(5):  # not by chance
                assert await call(b"", metadata=[("a", "x" * 15_500)]) == b""
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await call(b"", metadata=[("a", "x" * 17_000)])
                assert error.value.code() == Code.RESOURCE_EXHAUSTED

    asyncio.run(asyncio.wait_for(main(), 30))


def test_two_servers_on_one_event_loop_and_not_on_one_port() -> None:
    async def main() -> None:
        async with alone(echo) as one, alone(echo) as other:
            assert one.port != other.port
            for server in (one, other):
                async with grpc.aio.insecure_channel(server.address) as channel:
                    assert await channel.unary_unary(INFER)(b"") == b""
            with socket.socket() as stranger:
                stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                with pytest.raises(OSError, match="Address already in use"):
                    stranger.bind(("127.0.0.1", one.port))
            third = alone(echo)
            third.port = one.port
            with pytest.raises(AddressError, match="Address already in use; --grpc-port 0 picks"):
                await third.__aenter__()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_connection_has_a_limited_number_of_calls_at_once() -> None:
    began = 0
    go = asyncio.Event()

    async def wait(request: Any, deadline: float | None) -> Any:
        nonlocal began
        began += 1
        await go.wait()
        return inference.ModelInferResponse()

    async def main() -> None:
        async with (
            alone(wait, limits=ConnectionLimits(streams=2)) as server,
            grpc.aio.insecure_channel(server.address) as channel,
        ):
            first = channel.unary_unary(INFER)(b"")
            while not began:
                await asyncio.sleep(0.01)
            calls = [first, *(channel.unary_unary(INFER)(b"") for _ in range(3))]
            await asyncio.sleep(0.3)
            assert began == 2
            go.set()
            for call in calls:
                await call

    asyncio.run(asyncio.wait_for(main(), 30))


def test_further_connections_are_closed() -> None:
    async def main() -> None:
        async with (
            alone(echo, limits=ConnectionLimits(connections=2)) as server,
            connect(server.port) as one,
            connect(server.port) as two,
        ):
            for client in (one, two):
                await client.until(SETTINGS)
            async with connect(server.port) as three:
                await three.until_closed()
                assert three.frames == []
            one.send(call_headers(1, INFER), frame(DATA, END_STREAM, 1, bytes(5)))
            await one.until(DATA)

    asyncio.run(asyncio.wait_for(main(), 30))


def test_who_says_nothing_is_not_waited_for() -> None:
    async def main() -> None:
        async with alone(echo, limits=ConnectionLimits(handshake=0.2)) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"PRI * HTTP/2.0")
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()

    asyncio.run(asyncio.wait_for(main(), 10))


def test_a_connection_without_calls_is_closed() -> None:
    async def main() -> None:
        async with (
            alone(echo, limits=ConnectionLimits(timeout=0.2)) as server,
            connect(server.port) as client,
        ):
            await client.until(GOAWAY)

    asyncio.run(asyncio.wait_for(main(), 10))


def test_a_channel_that_was_idle_connects_again_by_itself() -> None:
    async def main() -> None:
        limits = ConnectionLimits(timeout=0.1)
        async with (
            alone(echo, limits=limits) as server,
            grpc.aio.insecure_channel(server.address) as channel,
        ):
            for pause in (0, 0.5, 0.09, 0.1, 0.11, 0.1, 0.1, 0.1, 0.1):  # also at the very moment
                await asyncio.sleep(pause)
                assert await channel.unary_unary(INFER)(b"", timeout=10) == b""

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_client_that_sends_and_never_reads_is_dropped() -> None:
    """Its flow-control window is as large as possible, so only the system's buffers are full."""

    async def long(request: Any, deadline: float | None) -> Any:
        return inference.ModelInferResponse(id="a" * 10**7)

    async def main() -> None:
        limits = ConnectionLimits(timeout=1)
        async with alone(long, limits=limits) as server:
            with socket.socket() as client:
                # By default, the buffers of both sides can grow until they hold the whole answer.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
                client.connect(("127.0.0.1", server.port))
                window = struct.pack(">L", 2**31 - 1 - 65_535)
                settings = frame(SETTINGS, 0, 0, struct.pack(">HL", 4, 2**31 - 1))
                client.sendall(PREFACE + settings + frame(WINDOW_UPDATE, 0, 0, window))
                await asyncio.to_thread(client.recv, 1)  # the server's settings
                client.sendall(frame(SETTINGS, ACK, 0, b""))
                client.sendall(call_headers(1, INFER) + frame(DATA, END_STREAM, 1, bytes(5)))
                with contextlib.suppress(ConnectionError):
                    while True:  # a frame to ignore, so that the server has no reason to ping
                        client.send(frame(0xEE, 0, 0, b""))
                        await asyncio.sleep(0.05)

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_client_that_ignores_the_limit_of_headers_is_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It acknowledges no settings, and repeats an entry of HPACK's table with a byte each."""
    entry = bytes([0x40, 1]) + b"a" + bytes([0x7F, 0x80 | 3000 - 127 & 0x7F, 3000 - 127 >> 7])
    block = call_headers(1, INFER)[9:] + entry + b"a" * 3000

    async def main() -> None:
        async with (
            alone(echo) as server,
            grpc.aio.insecure_channel(server.address) as channel,
            connect(server.port) as small,
            connect(server.port) as large,
        ):
            for client, count in ((small, 2), (large, 1000)):
                client.send(frame(HEADERS, END_HEADERS, 1, block + count * b"\xbe"))
                client.send(frame(DATA, END_STREAM, 1, bytes(5)))
            await large.until_closed()
            await small.until(DATA)
            assert await channel.unary_unary(INFER)(b"", timeout=10) == b""

    asyncio.run(asyncio.wait_for(main(), 30))
    (record,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert "127.0.0.1: a call has more than 65536 bytes of headers" in record.getMessage()
    assert record.__dict__["client"] == "127.0.0.1"
    # The event loop does not look through all connections itself.
    assert any(each.name.startswith("end-connection") for each in threading.enumerate())


def test_an_answer_that_nobody_takes_is_given_up_with_its_connection() -> None:
    async def long(request: Any, deadline: float | None) -> Any:
        return inference.ModelInferResponse(id="a" * 10**5)

    async def main() -> None:
        limits = ConnectionLimits(age=0.3, age_grace=0.3)
        async with (
            alone(long, limits=limits) as server,
            connect(server.port, window=1000) as client,
        ):
            client.send(call_headers(1, INFER), frame(DATA, END_STREAM, 1, bytes(5)))
            await answering_pings(client)
            assert sum(len(each[3]) for each in client.frames if each[0] == DATA) == 1000

    asyncio.run(asyncio.wait_for(main(), 10))


async def one_each(requests: Any, deadline: Any) -> Any:
    async for _ in requests:
        yield inference.ModelStreamInferResponse(error_message="a")


def with_stream(method: Any, timeout: float) -> GrpcServer:
    """A server with a method of ours in place of ModelInfer, and a stream."""
    service = Service(
        inference.service("GRPCInferenceService"),
        {"ModelInfer": method},
        {"ModelStreamInfer": one_each},
    )
    limits = ConnectionLimits(timeout=timeout)
    return GrpcServer([service], "127.0.0.1", 0, max_message_bytes=1000, limits=limits)


@pytest.mark.parametrize("path", [INFER, STREAM])
def test_a_client_that_takes_no_answer_is_dropped(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It answers pings, has an open call, and its window stays closed."""

    async def long(request: Any, deadline: float | None) -> Any:
        return inference.ModelInferResponse(id="a" * 20_000)

    async def main() -> None:
        async with (
            with_stream(long, timeout=0.4) as server,
            connect(server.port, window=0) as client,
        ):
            client.send(call_headers(1, STREAM), call_headers(3, path))
            client.send(frame(DATA, END_STREAM, 3, bytes(5)))
            await answering_pings(client)
            calls = server._calls
            while calls.active or calls.budget.used or calls.responses._responses:
                await asyncio.sleep(0.01)
            assert not calls.responses._bytes

    asyncio.run(asyncio.wait_for(main(), 10))
    assert "127.0.0.1: the client does not receive its responses" in caplog.text


def test_an_answer_that_is_taken_slowly_is_waited_for() -> None:
    """For longer than the limit of a short answer."""

    async def long(request: Any, deadline: float | None) -> Any:
        return inference.ModelInferResponse(id="a" * 200_000)

    async def main() -> None:
        async with (
            with_stream(long, timeout=0.2) as server,
            connect(server.port, window=0) as client,
        ):
            client.send(call_headers(1, STREAM), call_headers(3, INFER))
            client.send(frame(DATA, END_STREAM, 3, bytes(5)))
            reading = asyncio.create_task(answering_pings(client))
            for read in range(40_000, 200_001, 40_000):
                await asyncio.sleep(0.1)
                room = struct.pack(">L", 40_002)
                client.send(*(frame(WINDOW_UPDATE, 0, stream, room) for stream in (0, 3)))
                await until_read(client, read)
            assert not reading.done()
            reading.cancel()

    asyncio.run(asyncio.wait_for(main(), 10))


async def until_read(client: Client, size: int) -> None:
    """Wait until so much of an answer has come."""
    while sum(len(each[3]) for each in client.frames if each[0] == DATA) < size:
        await asyncio.sleep(0.01)


def test_answers_that_nobody_takes_are_a_part_of_the_budget() -> None:
    async def long(request: Any, deadline: float | None) -> Any:
        return inference.ModelInferResponse(id=request.id or "a" * 199_000)

    async def main() -> None:
        server = alone(long, budget=Budget(8 * 10**6))
        budget = server._calls.budget
        async with (
            server,
            grpc.aio.insecure_channel(server.address) as channel,
            connect(server.port, window=0) as client,
        ):
            for number in range(60):
                call = 2 * number + 1
                client.send(call_headers(call, INFER), frame(DATA, END_STREAM, call, bytes(5)))
            refused = 0
            while refused < 41:
                kind, flags, _, _ = await client.read()
                refused += kind == HEADERS and flags & END_STREAM
            assert 2 * 19 * 199_000 <= budget.used <= 8 * 10**6
            assert await channel.unary_unary(INFER)(infer_request(id="x"), timeout=10)
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await channel.unary_unary(INFER)(b"", timeout=10)
            assert error.value.code() == Code.RESOURCE_EXHAUSTED
            assert "no memory for the response of 199,0" in (error.value.details() or "")
            client.writer.close()
            while budget.used:
                await asyncio.sleep(0.01)
            assert await channel.unary_unary(INFER)(b"", timeout=10)
            while budget.used:
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(main(), 20))


class LongAnswer:
    def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's name
        return bytes(10**6)


@pytest.mark.parametrize("path", [INFER, STREAM])
def test_an_answer_that_was_refused_is_forgotten(path: str) -> None:
    """And not only when Python collects garbage, which is seldom."""
    answers: list[weakref.ref[LongAnswer]] = []

    def long() -> LongAnswer:
        answer = LongAnswer()
        answers.append(weakref.ref(answer))
        return answer

    async def unary(request: Any, deadline: float | None) -> Any:
        return long()

    async def streaming(requests: Any, deadline: Any) -> Any:
        async for _ in requests:
            yield long()

    async def main() -> None:
        service = Service(
            inference.service("GRPCInferenceService"),
            {"ModelInfer": unary},
            {"ModelStreamInfer": streaming},
        )
        server = GrpcServer([service], "127.0.0.1", 0, max_message_bytes=1000, budget=Budget(10**6))
        async with server, grpc.aio.insecure_channel(server.address) as channel:
            for _ in range(5):
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await channel.stream_unary(path)([b""])
                assert error.value.code() == Code.RESOURCE_EXHAUSTED
            while server._calls.active:
                await asyncio.sleep(0.01)

    gc.disable()
    try:
        asyncio.run(asyncio.wait_for(main(), 10))
        assert [answer() for answer in answers] == 5 * [None]
    finally:
        gc.enable()


async def answering_pings(client: Client) -> None:
    """Read until the server closes the connection, and answer pings, as a working client does."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            kind, flags, _, payload = await client.read()
            if kind == SETTINGS and not flags & ACK:
                client.send(frame(SETTINGS, ACK, 0, b""))
            if kind == PING and not flags & ACK:
                client.send(frame(PING, ACK, 0, payload))


@pytest.mark.parametrize("calls", [1, 0])
def test_a_client_that_is_gone_is_noticed(calls: int) -> None:
    noted: list[str] = []

    async def slow(request: Any, deadline: float | None) -> Any:
        await asyncio.sleep(20)

    async def main() -> None:
        limits = ConnectionLimits(timeout=1)
        async with (
            alone(slow, limits=limits, on_response=lambda *end: noted.append(end[2])) as server,
            connect(server.port) as client,
        ):
            client.send(frame(SETTINGS, ACK, 0, b""))
            if calls:
                client.send(call_headers(1, INFER), frame(DATA, END_STREAM, 1, bytes(5)))
            await client.until_closed()
            while len(noted) < calls:
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(main(), 10))
    assert noted == calls * ["CANCELLED"]


@pytest.mark.parametrize(
    ("interval", "pings", "closed"), [(0.01, 20, False), (60, 4, False), (60, 5, True)]
)
def test_a_client_that_pings_often(interval: float, pings: int, closed: bool) -> None:
    """The first is a client that pings each second, fifty times as fast."""
    assert ConnectionLimits().min_ping_interval < 1

    async def main() -> None:
        limits = ConnectionLimits(min_ping_interval=interval, ping_strikes=3)
        async with alone(echo, limits=limits) as server, connect(server.port) as client:
            for _ in range(pings):
                client.send(frame(PING, 0, 0, bytes(8)))
                await asyncio.sleep(0.02)
            if closed:
                assert b"too_many_pings" in await client.until(GOAWAY)
            else:
                client.send(call_headers(1, INFER), frame(DATA, END_STREAM, 1, bytes(5)))
                await client.until(DATA)
                assert len([each for each in client.frames if each[:2] == (PING, ACK)]) == pings

    asyncio.run(asyncio.wait_for(main(), 10))


def test_reflection(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert set(database.get_services()) == {
        "grpc.health.v1.Health",
        "inference.GRPCInferenceService",
        "tensorflow.serving.ModelService",
        "tensorflow.serving.PredictionService",
    }
    theirs = DescriptorPool(database)
    name = "inference.GRPCInferenceService"
    found = theirs.FindServiceByName(name).methods_by_name["ModelInfer"].input_type
    assert found.full_name == "inference.ModelInferRequest"
    ours = pool().FindMessageTypeByName("inference.ModelInferRequest")
    assert [field.name for field in found.fields] == [field.name for field in ours.fields]
    with pytest.raises(KeyError):
        theirs.FindServiceByName("inference.NoSuchService")


def test_calls_can_be_traced() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    async def wrong(request: Any, deadline: float | None) -> Any:
        raise QueueFullError("full", 1)

    async def ready(request: Any, deadline: float | None) -> Any:
        return inference.ModelReadyResponse()

    async def all_of(requests: Any, deadline: Any) -> Any:
        async for _ in requests:
            yield inference.ModelStreamInferResponse()

    async def main() -> None:
        service = Service(
            inference.service("GRPCInferenceService"),
            {"ModelReady": ready, "ModelInfer": wrong},
            {"ModelStreamInfer": all_of},
        )
        interceptor = aio_server_interceptor(tracer_provider=provider)
        server = GrpcServer(
            [service], "127.0.0.1", 0, max_message_bytes=1000, interceptors=[interceptor]
        )
        async with server, grpc.aio.insecure_channel(server.address) as channel:
            await channel.unary_unary(INFER.replace("ModelInfer", "ModelReady"))(b"")
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await channel.unary_unary(INFER)(b"")
            assert error.value.code() == Code.RESOURCE_EXHAUSTED
            stream = channel.stream_stream(INFER.replace("ModelInfer", "ModelStreamInfer"))
            assert len([body async for body in stream(3 * [b""])]) == 3

    asyncio.run(asyncio.wait_for(main(), 30))
    spans = {span.name: span for span in exporter.get_finished_spans()}
    prefix = INFER.removeprefix("/").removesuffix("ModelInfer")
    assert set(spans) == {f"/{prefix}{n}" for n in ("ModelReady", "ModelInfer", "ModelStreamInfer")}
    assert (spans[INFER].attributes or {})["rpc.grpc.status_code"] == 8
