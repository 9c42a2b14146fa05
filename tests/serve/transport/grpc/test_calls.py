"""Calls, as real clients see them: messages, streams, errors, time, and the end of the server."""

import asyncio
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import quote

import grpc
import grpc.aio
import pytest

from keras_cnns_serve.compose import create_grpc
from keras_cnns_serve.core.dataplane import Dataplane
from keras_cnns_serve.core.limits import Budget
from keras_cnns_serve.errors import InvalidInputError
from keras_cnns_serve.protos import health, inference
from keras_cnns_serve.transport.grpc import arrivals, calls, responses
from keras_cnns_serve.transport.grpc.server import GrpcServer, Service
from tests.serve.transport.grpc.frames import (
    DATA,
    END_STREAM,
    HEADERS,
    call_headers,
    connect,
    frame,
)
from tests.serve.transport.grpc.test_server import INFER, STREAM, alone

Code = grpc.StatusCode
Requests = AsyncIterator[Any]
Deadline = Callable[[], float | None]
WATCH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
parse = inference.ModelStreamInferResponse.FromString


async def echo(request: Any, deadline: float | None) -> Any:
    return inference.ModelInferResponse(id=request.id)


async def slow(request: Any, deadline: float | None) -> Any:
    await asyncio.sleep(20)


async def one_each(requests: Requests, deadline: Deadline) -> AsyncGenerator[Any, None]:
    async for request in requests:
        yield inference.ModelStreamInferResponse(error_message=request.id[:9])


def message(text: str = "x") -> bytes:
    content: bytes = inference.ModelInferRequest(id=text).SerializeToString()
    return content


def streaming(method: Any, **options: Any) -> GrpcServer:
    service = Service(inference.service("GRPCInferenceService"), {}, {"ModelStreamInfer": method})
    return GrpcServer([service], "127.0.0.1", 0, **{"max_message_bytes": 10**6, **options})


def run(
    server: GrpcServer, use: Callable[[grpc.aio.Channel], Awaitable[Any]], **options: Any
) -> Any:
    """Use a channel to a server, for at most 30 seconds; afterwards nothing may be in use."""

    async def main() -> Any:
        async with asyncio.timeout(30), server:
            async with grpc.aio.insecure_channel(server.address, **options) as channel:
                result = await use(channel)
            calls = server._calls
            while calls.active or calls.arrivals.started or calls.idle or calls.budget.used:
                await asyncio.sleep(0.01)
            return result

    return asyncio.run(main())


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(("channels", "calls"), [(1, 800), (14, 250)])
def test_many_calls_at_once_get_their_own_answers(channels: int, calls: int) -> None:
    """More calls than a connection may have, and more than may wait in grpcio by default."""

    async def ask(server: GrpcServer, number: int) -> None:
        own = [("grpc.use_local_subchannel_pool", 1), ("number", number)]
        texts = [f"call {call} of {number}" for call in range(calls)]
        async with grpc.aio.insecure_channel(server.address, own) as channel:
            method = channel.unary_unary(INFER)
            bodies = await asyncio.gather(*(method(message(text)) for text in texts))
        assert [inference.ModelInferResponse.FromString(body).id for body in bodies] == texts

    async def main() -> None:
        async with asyncio.timeout(30), alone(echo) as server:
            await asyncio.gather(*(ask(server, number) for number in range(channels)))

    asyncio.run(main())


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_a_compressed_message(compression: grpc.Compression) -> None:
    async def use(channel: grpc.aio.Channel) -> None:
        text = "a" * 900
        body = await channel.unary_unary(INFER)(message(text), compression=compression)
        assert inference.ModelInferResponse.FromString(body).id == text

    run(alone(echo), use)


@pytest.mark.parametrize("text", ["模" * 3000, "%" * 9000, "a" * 9000, "\U0001f600" * 1999, "\n"])
def test_a_long_error_fits_in_a_header(text: str) -> None:
    async def wrong(request: Any, deadline: float | None) -> Any:
        raise InvalidInputError(text)

    async def use(channel: grpc.aio.Channel) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await channel.unary_unary(INFER)(message())
        assert error.value.code() == Code.INVALID_ARGUMENT
        details = error.value.details() or ""
        assert text == details or 1000 < len(quote(details)) <= 4000
        assert text.startswith(details)

    run(alone(wrong), use)


def test_a_deadline_reaches_the_core(dataplane: Dataplane) -> None:
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 8, 8, 1]}
    request = inference.ModelInferRequest(
        model_name="grey", inputs=[tensor], raw_input_contents=[bytes(64)]
    ).SerializeToString()

    def create(timeout: float) -> GrpcServer:
        return create_grpc(dataplane, "127.0.0.1", 0, max_message_bytes=1000, timeout=timeout)

    async def late(channel: grpc.aio.Channel) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await channel.unary_unary(INFER)(request)
        assert error.value.code() == Code.DEADLINE_EXCEEDED

    async def in_time(channel: grpc.aio.Channel) -> None:
        assert await channel.unary_unary(INFER)(request)

    run(create(1e-9), late)
    run(create(9), in_time)


@pytest.mark.parametrize("fails", [True, False])
def test_calls_that_end_at_any_moment_leave_nothing(
    fails: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Cancelled, or with a deadline that passes, before, while and after they are answered."""

    async def late(request: Any, deadline: float | None) -> Any:
        await asyncio.sleep(0.002)
        if fails:
            raise InvalidInputError("wrong")
        return inference.ModelInferResponse()

    async def use(channel: grpc.aio.Channel) -> None:
        call = channel.unary_unary(INFER)
        for number in range(60):
            calls = [call(message(), timeout=0.001 * (1 + number % 5)) for _ in range(4)]
            calls += [call(message()) for _ in range(4)]
            await asyncio.sleep(0.0003 * (number % 12))
            for each in calls[4:]:
                each.cancel()
            codes = {await each.code() for each in calls}
            answered = Code.INVALID_ARGUMENT if fails else Code.OK
            assert codes <= {answered, Code.CANCELLED, Code.DEADLINE_EXCEEDED}

    run(alone(late), use)
    assert not caplog.records


def test_what_takes_long_on_purpose_is_not_ended() -> None:
    """A method gets the deadline, but may ignore it: loading a model may take longer."""

    async def load(request: Any, deadline: float | None) -> Any:
        await asyncio.sleep(0.4)
        return inference.ModelInferResponse(id=f"{(deadline or 0) - time.monotonic():.1f}")

    async def use(channel: grpc.aio.Channel) -> None:
        body = await channel.unary_unary(INFER)(message())
        assert inference.ModelInferResponse.FromString(body).id == "-0.3"

    run(alone(load, timeout=0.1), use)


def test_a_message_that_comes_too_slowly_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(arrivals, "BODY_SECONDS", 0.1)

    async def use(channel: grpc.aio.Channel) -> None:
        call = channel.stream_unary(INFER)()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        assert error.value.code() == Code.DEADLINE_EXCEEDED
        assert "too slowly" in (error.value.details() or "")

    run(alone(echo), use)


def test_half_a_message_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "BODY_SECONDS", 0.1)
    noted: list[str] = []

    async def main() -> None:
        server = alone(echo, on_response=lambda path, client, code, seconds: noted.append(code))
        async with asyncio.timeout(30), server, connect(server.port) as client:
            client.send(call_headers(1, INFER), frame(DATA, 0, 1, b"\x00\x00\x00\x00\x09x"))
            await client.until(HEADERS, END_STREAM)

    asyncio.run(main())
    assert noted == ["DEADLINE_EXCEEDED"]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_client_is_known_by_its_address(host: str) -> None:
    clients: list[str] = []

    async def main() -> None:
        service = Service(inference.service("GRPCInferenceService"), {"ModelInfer": echo})
        server = GrpcServer(
            [service],
            host,
            0,
            max_message_bytes=1000,
            on_response=lambda path, client, code, seconds: clients.append(client),
        )
        async with server, grpc.aio.insecure_channel(server.address) as channel:
            await channel.unary_unary(INFER)(message())

    if host == "::1" and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    asyncio.run(asyncio.wait_for(main(), 30))
    assert clients == [host]


def test_a_call_without_a_message() -> None:
    async def use(channel: grpc.aio.Channel) -> None:
        call = channel.stream_unary(INFER)()
        await call.done_writing()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        assert error.value.code() == Code.INTERNAL
        assert "one message was expected" in (error.value.details() or "")

    run(alone(echo), use)


def test_messages_that_never_come_keep_out_nobody() -> None:
    """Four messages can be incomplete: of ten, six are rejected, and other calls are answered."""
    noted: list[str] = []

    async def use(channel: grpc.aio.Channel) -> None:
        calls = [channel.stream_unary(INFER)() for _ in range(10)]
        await until(lambda: len(noted) == 6)
        assert noted == 6 * ["RESOURCE_EXHAUSTED"]
        details = [await call.details() for call in calls if call.done()]
        assert {text[:34] for text in details} <= {
            "the message arrived too slowly whi",
            "the message cannot be received, be",
        }
        for _ in range(20):
            assert await channel.unary_unary(INFER)(message())
        for call in calls:
            call.cancel()

    server = alone(
        echo,
        budget=Budget(8000),
        on_response=lambda path, client, code, seconds: noted.append(code),
    )
    run(server, use)
    # One of those that had a turn may have lost it to the calls that were answered.
    assert noted.count("OK") == 20
    assert noted.count("CANCELLED") + noted.count("RESOURCE_EXHAUSTED") == 10


def test_a_burst_of_calls_is_answered() -> None:
    """Even if only two messages can be incomplete at the same time."""

    async def use(channel: grpc.aio.Channel) -> None:
        for body in await asyncio.gather(
            *(channel.unary_unary(INFER)(message(str(n))) for n in range(500))
        ):
            assert inference.ModelInferResponse.FromString(body)

    run(alone(echo, budget=Budget(2**20), max_message_bytes=2**19), use)


def test_open_streams_are_limited() -> None:
    async def use(channel: grpc.aio.Channel) -> None:
        streams = [channel.stream_stream(STREAM)() for _ in range(2)]
        for stream in streams:
            await stream.write(message())
            assert parse(await stream.read())
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await channel.stream_stream(STREAM)().read()
        assert error.value.code() == Code.RESOURCE_EXHAUSTED
        assert "2 streams are open" in (error.value.details() or "")
        for stream in streams:
            stream.cancel()
        await until(lambda: not server._calls.streams)
        again = channel.stream_stream(STREAM)()
        await again.write(message())
        await again.done_writing()
        assert parse(await again.read())

    server = streaming(one_each, budget=Budget(4 * 10**6))
    run(server, use)


def test_the_stream_that_was_idle_longest_is_ended_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calls, "QUIET_SECONDS", 0.1)

    async def use(channel: grpc.aio.Channel) -> None:
        streams = [channel.stream_stream(STREAM)() for _ in range(2)]
        for stream in (*streams, streams[0]):
            await stream.write(message())
            assert parse(await stream.read())
        await asyncio.sleep(0.2)
        other = channel.stream_stream(REFLECTION)()
        await other.write(b"\x3a\x01x")  # list_services
        assert b"inference.GRPCInferenceService" in await other.read()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await streams[1].read()
        assert error.value.code() == Code.RESOURCE_EXHAUSTED
        assert "idle longest" in (error.value.details() or "")
        await streams[0].write(message("still"))
        assert parse(await streams[0].read()).error_message == "still"
        async with asyncio.timeout(5):  # the last message is released after its answer
            while server._calls.budget.used != 2 * 10**6:
                await asyncio.sleep(0.01)

    server = streaming(one_each, budget=Budget(4 * 10**6))
    run(server, use)


def test_a_stream_whose_answer_is_not_taken_is_ended_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(responses, "BLOCKED_SECONDS", 0.1)

    async def use(channel: grpc.aio.Channel) -> None:
        async with connect(server.port, window=0) as client:
            for stream in (1, 3):
                client.send(call_headers(stream, STREAM), frame(DATA, 0, stream, bytes(5)))
            await until(lambda: len(server._calls.responses._responses) == 2)
            with pytest.raises(grpc.aio.AioRpcError, match="2 streams are open"):
                await channel.stream_stream(STREAM)().read()
            await asyncio.sleep(0.2)
            other = channel.stream_stream(STREAM)()
            await other.write(message())
            assert parse(await other.read())
            await client.until_closed()

    server = streaming(one_each, budget=Budget(4 * 10**6))
    run(server, use)


def test_a_stream_at_work_is_not_ended_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "QUIET_SECONDS", 0)

    async def late(requests: Requests, deadline: Deadline) -> AsyncGenerator[Any, None]:
        async for request in requests:
            await asyncio.sleep(0.4)
            yield inference.ModelStreamInferResponse(error_message=request.id[:9])

    async def use(channel: grpc.aio.Channel) -> None:
        streams = [channel.stream_stream(STREAM)() for _ in range(2)]
        for stream in streams:
            await stream.write(message())
        await until(lambda: len(server._calls.streams) == 2 and not server._calls.idle)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await channel.stream_stream(STREAM)().read()
        assert error.value.code() == Code.RESOURCE_EXHAUSTED
        for stream in streams:
            assert parse(await stream.read()).error_message == "x"

    server = streaming(late, budget=Budget(4 * 10**6))
    run(server, use)


def test_a_message_that_does_not_come_at_once_holds_memory() -> None:
    """As much as the longest message needs; if it is not free, the call is rejected."""

    async def use(channel: grpc.aio.Channel) -> None:
        budget = server._calls.budget
        call = channel.stream_unary(INFER)()
        await until(lambda: budget.used == 10**5)
        await call.write(message("late"))
        await call.done_writing()
        assert inference.ModelInferResponse.FromString(await call).id == "late"
        await until(lambda: not budget.used)
        with budget.claim(400_000), budget.claim(300_000), budget.claim(150_000):
            assert await channel.unary_unary(INFER)(message())
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await channel.stream_unary(INFER)()
            assert error.value.code() == Code.RESOURCE_EXHAUSTED
            assert "no memory to wait for the rest of it" in (error.value.details() or "")

    server = alone(echo, budget=Budget(10**6), max_message_bytes=10**5)
    run(server, use)


def test_a_message_that_comes_at_once_holds_its_own_memory_alone() -> None:
    held: list[int] = []

    async def note(request: Any, deadline: float | None) -> Any:
        await asyncio.sleep(0.2)  # the watch looks each tenth of a second
        held.append(server._calls.budget.used)
        return inference.ModelInferResponse()

    async def use(channel: grpc.aio.Channel) -> None:
        await channel.unary_unary(INFER)(message())

    server = alone(note, max_message_bytes=10**6)
    run(server, use)
    assert held == [67 * len(message())]


@pytest.mark.parametrize("timeout", [0.2, 5])
def test_the_deadline_counts_from_the_beginning_of_the_call(timeout: float) -> None:
    """Even while the message arrives."""
    left: list[float] = []
    noted: list[str] = []

    async def note(request: Any, deadline: float | None) -> Any:
        left.append((deadline or 0) - time.monotonic())
        return inference.ModelInferResponse()

    async def main() -> None:
        server = alone(
            note,
            timeout=timeout,
            on_response=lambda path, client, code, seconds: noted.append(code),
        )
        async with asyncio.timeout(30), server, connect(server.port) as client:
            client.send(call_headers(1, INFER), frame(DATA, 0, 1, bytes(3)))
            await until(lambda: server._calls.active)
            await asyncio.sleep(0.3)
            client.send(frame(DATA, END_STREAM, 1, bytes(2)))
            await client.until(HEADERS, END_STREAM)

    asyncio.run(main())
    if timeout == 5:
        assert noted == ["OK"]
        assert 0 < left[0] < 4.75
    else:
        assert noted == ["DEADLINE_EXCEEDED"]
        assert not left


def test_a_call_holds_memory_for_its_message_until_it_ends() -> None:
    held: list[int] = []

    async def note(request: Any, deadline: float | None) -> Any:
        held.append(server._calls.budget.used)
        return inference.ModelInferResponse()

    async def use(channel: grpc.aio.Channel) -> None:
        await channel.unary_unary(INFER)(message("x" * 100_000))
        assert 300_000 < held[0] < 400_000
        with server._calls.budget.claim(490_000), pytest.raises(grpc.aio.AioRpcError) as error:
            await channel.unary_unary(INFER)(message("x" * 100_000))
        assert error.value.code() == Code.RESOURCE_EXHAUSTED
        assert "memory" in (error.value.details() or "")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await channel.unary_unary(INFER)(message("x" * 200_000))
        assert error.value.code() == Code.INVALID_ARGUMENT
        assert "half of --memory-budget" in (error.value.details() or "")

    server = alone(note, budget=Budget(10**6), max_message_bytes=10**6)
    run(server, use)


def test_a_stream_is_answered_in_order() -> None:
    """Even if its method is slower than the client."""

    async def late(requests: Requests, deadline: Deadline) -> AsyncGenerator[Any, None]:
        async for request in requests:
            await asyncio.sleep(0.001)
            yield inference.ModelStreamInferResponse(error_message=request.id[:9])

    async def requests() -> AsyncGenerator[bytes, None]:
        for number in range(200):
            yield message(f"{number:09}" * 5000)

    async def use(channel: grpc.aio.Channel) -> list[str]:
        call = channel.stream_stream(STREAM)(requests(), timeout=20)
        return [parse(body).error_message async for body in call]

    assert run(streaming(late), use) == [f"{number:09}" for number in range(200)]


def test_a_long_stream_leaves_the_others_their_turn() -> None:
    turns = answers = 0

    async def count(requests: Requests, deadline: Deadline) -> AsyncGenerator[Any, None]:
        nonlocal answers
        async for _ in requests:
            answers += 1
            yield inference.ModelStreamInferResponse()

    async def turn() -> None:
        nonlocal turns
        while answers < 300:
            turns += 1
            await asyncio.sleep(0)

    async def use(channel: grpc.aio.Channel) -> None:
        turning = asyncio.create_task(turn())
        call = channel.stream_stream(STREAM)(300 * [message()])
        assert len([body async for body in call]) == 300
        await turning

    run(streaming(count), use)
    assert turns >= 300


def test_an_error_in_a_stream_follows_what_was_sent() -> None:
    async def use(channel: grpc.aio.Channel) -> None:
        call = channel.stream_stream(STREAM)([message("first"), b"\xff\xff\xff\xff"])
        assert parse(await call.read()).error_message == "first"
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call.read()
        assert error.value.code() == Code.INVALID_ARGUMENT
        assert "cannot be parsed" in (error.value.details() or "")

    run(streaming(one_each), use)


def test_a_stream_is_longer_than_a_request_may_be() -> None:
    """The server's limit applies to each request in it; the client's, to the whole stream."""
    deadlines: list[float] = []

    async def answer(requests: Requests, deadline: Deadline) -> AsyncGenerator[Any, None]:
        async for _ in requests:
            deadlines.append((deadline() or 0) - time.monotonic())
            yield inference.ModelStreamInferResponse()

    async def requests() -> AsyncGenerator[bytes, None]:
        for _ in range(5):
            yield message()
            await asyncio.sleep(0.1)

    async def use(channel: grpc.aio.Channel) -> None:
        call = channel.stream_stream(STREAM)
        assert len([body async for body in call(requests())]) == 5
        limited = call(timeout=0.3)
        await limited.write(message())
        assert await limited.read() == b""
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await limited.read()
        assert error.value.code() == Code.DEADLINE_EXCEEDED

    run(streaming(answer, timeout=0.2), use)
    assert len(deadlines) == 6
    assert all(0 < seconds <= 0.2 for seconds in deadlines)


def test_a_watch_lasts(dataplane: Dataplane) -> None:
    async def use(channel: grpc.aio.Channel) -> None:
        watch = channel.stream_stream(WATCH)()
        await watch.write(b"")  # and does not end its stream, as few clients do
        body = await watch.read()
        assert (
            health.HealthCheckResponse.FromString(body).status == health.HealthCheckResponse.SERVING
        )
        await asyncio.sleep(0.4)
        assert not watch.done()
        watch.cancel()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            _ = [body async for body in channel.stream_stream(WATCH)([])]
        assert error.value.code() == Code.INTERNAL

    run(create_grpc(dataplane, "127.0.0.1", 0, max_message_bytes=1000, timeout=0.2), use)


def test_watches_are_counted_as_streams(
    dataplane: Dataplane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "MAX_STREAMS", 5)

    async def use(channel: grpc.aio.Channel) -> None:
        watches = [channel.unary_stream(WATCH)(b"") for _ in range(5)]
        for watch in watches:
            await watch.read()
        assert server._calls.budget.used == 5 * calls.STREAM_BYTES
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await channel.unary_stream(WATCH)(b"").read()
        assert error.value.code() == Code.RESOURCE_EXHAUSTED
        assert "5 streams are open" in (error.value.details() or "")
        monkeypatch.setattr(calls, "QUIET_SECONDS", 0)
        more = channel.unary_stream(WATCH)(b"")
        assert await more.read()
        await until(lambda: any(watch.done() for watch in watches))
        (ended,) = [watch for watch in watches if watch.done()]
        assert "idle longest" in (await ended.details() or "")
        for watch in (*watches, more):
            watch.cancel()

    server = create_grpc(dataplane, "127.0.0.1", 0, max_message_bytes=1000)
    run(server, use)


def test_one_look_is_enough_for_all_watches(
    dataplane: Dataplane, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Any] = []
    ready = dataplane.ready

    def count(target: Any) -> bool:
        looks.append(target)
        return ready(target)

    monkeypatch.setattr(dataplane, "ready", count)

    async def use(channel: grpc.aio.Channel) -> None:
        known = health.HealthCheckRequest(service="grey").SerializeToString()
        unknown = health.HealthCheckRequest(service="gray").SerializeToString()
        watches = [channel.unary_stream(WATCH)(body) for body in 30 * [known, unknown]]
        first = [health.HealthCheckResponse.FromString(await each.read()) for each in watches]
        serving, not_serving = (
            health.HealthCheckResponse.SERVING,
            health.HealthCheckResponse.NOT_SERVING,
        )
        assert {each.status for each in first[::2]} == {serving}
        assert {each.status for each in first[1::2]} == {health.HealthCheckResponse.SERVICE_UNKNOWN}
        await asyncio.sleep(0.6)
        assert len(looks) < 2 * 60 + 20  # two of each at its beginning, and two at each look
        monkeypatch.setattr(dataplane, "draining", True)
        for each in watches:
            body = await each.read()
            assert health.HealthCheckResponse.FromString(body).status == not_serving
            assert await each.code() == Code.OK

    run(create_grpc(dataplane, "127.0.0.1", 0, max_message_bytes=1000), use)


@pytest.mark.parametrize("grace", [0, 0.4])
def test_what_does_not_end_in_time_is_ended(grace: float, caplog: pytest.LogCaptureFixture) -> None:
    """Running calls, streams, calls that wait for a message, and calls that no client reads."""
    noted: list[str] = []

    async def flood(requests: Requests, deadline: Deadline) -> AsyncGenerator[Any, None]:
        async for request in requests:
            while request.id == "flood":
                yield inference.ModelStreamInferResponse(error_message="a" * 10**5)
            yield inference.ModelStreamInferResponse()

    async def main() -> list[Any]:
        service = Service(
            inference.service("GRPCInferenceService"),
            {"ModelInfer": slow},
            {"ModelStreamInfer": flood},
        )
        server = GrpcServer(
            [service],
            "127.0.0.1",
            0,
            max_message_bytes=1000,
            grace=grace,
            on_response=lambda path, client, code, seconds: noted.append(code),
        )
        await server.__aenter__()
        async with grpc.aio.insecure_channel(server.address) as channel:
            unary = channel.unary_unary(INFER)(message())
            idle, full = (channel.stream_stream(STREAM)() for _ in range(2))
            await idle.write(message())
            await full.write(message("flood"))
            await idle.read()
            await full.read()
            await until(lambda: len(server._calls.active) == 3)
            await asyncio.sleep(0.1)
            started = time.monotonic()
            await server.__aexit__()
            assert time.monotonic() - started < grace + 5
            full.cancel()
            await full.code()
            await until(lambda: len(noted) == 3)
            await asyncio.sleep(0.1)  # grpcio reports to the next test's event loop what is left
            return [(await call.code(), await call.details()) for call in (unary, idle)]

    stopped = (Code.UNAVAILABLE, "the server is stopping; try again")
    assert asyncio.run(main()) == [stopped, stopped]
    assert sorted(noted) == ["CANCELLED", "UNAVAILABLE", "UNAVAILABLE"]
    assert not caplog.records


def test_a_stream_that_waits_does_not_use_up_the_grace() -> None:
    async def use(channel: grpc.aio.Channel) -> None:
        idle, busy = (channel.stream_stream(STREAM)() for _ in range(2))
        for call in (idle, busy):
            await call.write(message())
            assert await call.read()
        started = time.monotonic()
        stopping = asyncio.create_task(server.__aexit__())
        for number in range(10):
            await busy.write(message(f"{number}"))
            assert parse(await busy.read()).error_message == f"{number}"
            await asyncio.sleep(0.1)
        await busy.done_writing()
        assert await busy.code() == Code.OK
        assert await idle.code() == Code.UNAVAILABLE
        await stopping
        assert time.monotonic() - started < 10

    server = streaming(one_each, grace=20)
    run(server, use)
