"""HTTP/2 as others speak it: the library h2 as the client, which is strict, and bytes by hand."""

import asyncio
import random
import socket
import struct
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote

import grpc.aio
import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import hpack
import pytest

from keras_cnns_serve import body, grpc_call, grpc_server, http2
from keras_cnns_serve.dataplane import Dataplane
from keras_cnns_serve.errors import InvalidInputError
from keras_cnns_serve.grpc_app import create_grpc
from keras_cnns_serve.grpc_call import BidirectionalCall
from keras_cnns_serve.grpc_server import GrpcServer, Service
from keras_cnns_serve.http2 import PREFACE
from keras_cnns_serve.http2_frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HAS_PRIORITY,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Code,
    ProtocolError,
    frame,
)
from keras_cnns_serve.http2_headers import KEPT_HEADS, HeadReader
from keras_cnns_serve.protos import inference
from tests.serve.test_grpc_server import INFER, alone

HEAD = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", INFER),
    (":authority", "x"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]
PACKED_HEAD = hpack.Encoder().encode(HEAD)
BEGIN = PREFACE + frame(SETTINGS, 0, 0, b"")  # of a client's bytes


def head_of(path: str) -> list[tuple[str, str]]:
    return [(name, path if name == ":path" else value) for name, value in HEAD]


async def echo(request: Any, deadline: float | None) -> Any:
    return inference.ModelInferResponse(id=request.id)


async def slow(request: Any, deadline: float | None) -> Any:
    await asyncio.sleep(20)


def message(text: str = "x") -> bytes:
    content: bytes = inference.ModelInferRequest(id=text).SerializeToString()
    return b"\x00" + struct.pack(">L", len(content)) + content


class Client:
    """A connection of h2's, and what came on its streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.state = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.events: list[h2.events.Event] = []

    async def begin(self, **settings: int) -> None:
        codes = {getattr(h2.settings.SettingCodes, name): n for name, n in settings.items()}
        self.state.local_settings.update(codes)
        self.state.local_settings.acknowledge()
        self.state.initiate_connection()
        await self.flush()

    async def flush(self) -> None:
        self.writer.write(self.state.data_to_send())
        await self.writer.drain()

    async def send(
        self, stream: int, data: bytes = b"", more: Sequence[tuple[str, str]] = (), end: bool = True
    ) -> None:
        self.state.send_headers(stream, [*HEAD, *more], end_stream=not data and end)
        if data:
            self.state.send_data(stream, data, end_stream=end)
        await self.flush()

    async def send_all(self, stream: int, data: bytes, end: bool = True) -> None:
        """As fast as the server lets it."""
        self.state.send_headers(stream, HEAD)
        while data:
            room = self.state.local_flow_control_window(stream)
            size = min(room, self.state.max_outbound_frame_size, len(data))
            if size:
                self.state.send_data(stream, data[:size], end_stream=end and size == len(data))
                data = data[size:]
                await self.flush()
            else:
                await self.read()

    async def read(self) -> None:
        data = await self.reader.read(2**16)
        assert data, f"closed after {self.events}"
        self.events += self.state.receive_data(data)
        await self.flush()

    async def until(self, kind: type[h2.events.Event], count: int = 1) -> list[Any]:
        """Reads until so many events of this kind came."""
        async with asyncio.timeout(10):
            while len(found := [e for e in self.events if isinstance(e, kind)]) < count:
                await self.read()
        return found

    def body(self, stream: int) -> bytes:
        pieces = [e for e in self.events if isinstance(e, h2.events.DataReceived)]
        return b"".join(e.data for e in pieces if e.stream_id == stream and e.data)

    def trailers(self, stream: int) -> dict[str, str]:
        kinds = (h2.events.TrailersReceived, h2.events.ResponseReceived)
        found = [e for e in self.events if isinstance(e, kinds) and e.stream_id == stream]
        return {str(name): str(value) for name, value in found[-1].headers or ()}


@asynccontextmanager
async def serving(method: Any = echo, **options: Any) -> AsyncIterator[GrpcServer]:
    async with asyncio.timeout(30), alone(method, **options) as server:
        yield server


@asynccontextmanager
async def connected(server: GrpcServer, **settings: int) -> AsyncIterator[Client]:
    client = Client(*await asyncio.open_connection("127.0.0.1", server.port))
    try:
        await client.begin(**settings)
        yield client
    finally:
        client.writer.close()


def streaming(method: Any, **options: Any) -> GrpcServer:
    service = Service(inference.service("GRPCInferenceService"), {}, {"ModelStreamInfer": method})
    return GrpcServer([service], "127.0.0.1", 0, max_message_bytes=10**6, **options)


STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


def test_a_call() -> None:
    async def main() -> None:
        async with serving() as server, connected(server) as client:
            for stream in (1, 3, 5):
                await client.send(stream, message(f"number {stream}"))
                await client.until(h2.events.StreamEnded, (stream + 1) // 2)
                assert client.body(stream) == message(f"number {stream}")
                assert client.trailers(stream) == {"grpc-status": "0"}
            (first, *_) = await client.until(h2.events.ResponseReceived)
            assert dict(first.headers) == {":status": "200", "content-type": "application/grpc"}

    asyncio.run(main())


def test_many_calls_at_once_and_pings_between() -> None:
    async def main() -> None:
        async with serving() as server, connected(server) as client:
            streams = range(1, 401, 2)
            for stream in streams:
                client.state.send_headers(stream, HEAD)
                client.state.send_data(stream, message(str(stream)), True, pad_length=stream % 9)
                client.state.ping(b"12345678")
            await client.flush()
            await client.until(h2.events.StreamEnded, len(streams))
            assert len(await client.until(h2.events.PingAckReceived)) == len(streams)
            assert [client.body(s) for s in streams] == [message(str(s)) for s in streams]

    asyncio.run(main())


def test_an_answer_waits_for_the_client_s_window() -> None:
    long = message("a" * 100_000)

    async def main() -> None:
        async with (
            serving(max_message_bytes=10**6) as server,
            connected(server, INITIAL_WINDOW_SIZE=1000) as client,
        ):
            for stream in (1, 3):
                await client.send_all(stream, long)
            await client.until(h2.events.DataReceived, 2)
            await asyncio.sleep(0.1)
            assert [len(client.body(stream)) for stream in (1, 3)] == [1000, 1000]
            # By the setting for both, then by the stream, then by the connection.
            client.state.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 40_000})
            await client.flush()
            await client.until(h2.events.SettingsAcknowledged, 2)
            client.state.increment_flow_control_window(70_000, stream_id=1)
            await client.flush()
            await asyncio.sleep(0.1)
            client.state.increment_flow_control_window(70_000, stream_id=3)
            client.state.increment_flow_control_window(200_000)
            await client.flush()
            await client.until(h2.events.StreamEnded, 2)
            assert client.body(1) == client.body(3) == long

    asyncio.run(main())


def test_a_message_larger_than_the_windows() -> None:
    long = message("a" * 40 * 2**20)  # more than the connection's window, too

    async def main() -> None:
        async with (
            serving(max_message_bytes=50 * 2**20) as server,
            connected(server, INITIAL_WINDOW_SIZE=2**30) as client,
        ):
            client.state.increment_flow_control_window(2**30)
            await client.send_all(1, long)
            await client.until(h2.events.StreamEnded)
            assert client.body(1) == long

    asyncio.run(main())


async def exchange(
    server: GrpcServer, pieces: Sequence[bytes]
) -> list[tuple[int, int, int, bytes]]:
    """Sends bytes, and reads frames until the server closes: type, flags, stream, payload."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    for piece in pieces:
        writer.write(piece)
        await asyncio.sleep(0.01 if len(pieces) < 9 else 0)
    try:
        data = await reader.read()
    finally:
        writer.close()
    frames = []
    while data:
        size = int.from_bytes(data[:3])
        frames.append((data[3], data[4], int.from_bytes(data[5:9]), data[9 : 9 + size]))
        data = data[9 + size :]
    return frames


CALL = frame(HEADERS, END_HEADERS, 1, PACKED_HEAD)
BOMB = b"\x40\x01a\x7f\xa1\x1e" + 4000 * b"b" + 30 * b"\xbe"  # one header, and 30 times the same


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (b"\xff\xff\xff\x00\x00\x00\x00\x00\x01", Code.FRAME_SIZE_ERROR),
        (b"\xff\xff\xff\x00|" + bytes(100), Code.FRAME_SIZE_ERROR),  # its head in two pieces
        (frame(HEADERS, END_HEADERS | HAS_PRIORITY, 1, bytes(4)), Code.FRAME_SIZE_ERROR),
        (frame(PING, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
        (frame(SETTINGS, 0, 0, bytes(5)), Code.FRAME_SIZE_ERROR),
        (frame(SETTINGS, 0, 1, b""), Code.PROTOCOL_ERROR),
        (frame(SETTINGS, 0, 0, struct.pack(">HL", 5, 1)), Code.PROTOCOL_ERROR),
        (frame(SETTINGS, 0, 0, struct.pack(">HL", 4, 2**32 - 1)), Code.FLOW_CONTROL_ERROR),
        (frame(DATA, 0, 0, b"x"), Code.PROTOCOL_ERROR),
        (frame(DATA, 0, 1, b"x"), Code.PROTOCOL_ERROR),
        (frame(RST_STREAM, 0, 1, bytes(4)), Code.PROTOCOL_ERROR),
        (frame(PUSH_PROMISE, 0, 1, bytes(4)), Code.PROTOCOL_ERROR),
        (frame(WINDOW_UPDATE, 0, 0, bytes(4)), Code.PROTOCOL_ERROR),
        (frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"), Code.FLOW_CONTROL_ERROR),
        (CALL + frame(WINDOW_UPDATE, 0, 1, b"\x7f\xff\xff\xff"), Code.FLOW_CONTROL_ERROR),
        (frame(HEADERS, END_HEADERS, 2, PACKED_HEAD), Code.PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff\xff"), Code.COMPRESSION_ERROR),
        (frame(HEADERS, END_HEADERS, 1, b"\xc6"), Code.COMPRESSION_ERROR),  # no such entry
        (frame(HEADERS, END_HEADERS, 1, BOMB), Code.ENHANCE_YOUR_CALM),
        (frame(HEADERS, END_HEADERS, 1, b"\x20" * 40_000), Code.ENHANCE_YOUR_CALM),
        (frame(HEADERS, END_HEADERS | PADDED, 1, b"\x09x"), Code.PROTOCOL_ERROR),
        (frame(CONTINUATION, 0, 1, b""), Code.PROTOCOL_ERROR),
        (frame(HEADERS, 0, 1, b"") + frame(PING, 0, 0, bytes(8)), Code.PROTOCOL_ERROR),
        (frame(HEADERS, 0, 1, b"") + frame(CONTINUATION, 0, 3, b""), Code.PROTOCOL_ERROR),
        (
            frame(HEADERS, 0, 1, b"") + 9 * frame(CONTINUATION, 0, 1, bytes(4000)),
            Code.ENHANCE_YOUR_CALM,
        ),
        (CALL + CALL, Code.PROTOCOL_ERROR),
        (
            frame(HEADERS, END_HEADERS | END_STREAM, 1, PACKED_HEAD) + frame(DATA, 0, 1, b"x"),
            None,  # it has had its answer, and what follows is ignored
        ),
    ],
    ids=lambda value: value.hex()[:40] if isinstance(value, bytes) else str(value),
)
def test_who_breaks_the_protocol_is_told_how(frames: bytes, code: Code | None) -> None:
    async def main() -> None:
        async with serving(slow, max_message_bytes=2**21) as server:
            last = frame(GOAWAY, 0, 0, bytes(8))  # a client that leaves
            sent = (BEGIN + frames).split(b"|", 1)
            got = await exchange(server, [*sent, last] if code is None else sent)
            goaways = [payload for kind, _, _, payload in got if kind == GOAWAY]
            assert [int.from_bytes(each[4:8]) for each in goaways] == ([code] if code else [])
            assert all(len(each) > 8 for each in goaways)  # it says what was wrong
            assert not server._connections

    asyncio.run(main())


@pytest.mark.parametrize(
    "sent", [b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"\x16\x03\x01", b"PRI * X"]
)
def test_another_protocol_is_told_where_it_is_spoken(sent: bytes) -> None:
    async def main() -> None:
        async with serving() as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(sent)
            assert b"This port speaks gRPC" in await reader.read()
            writer.close()

    asyncio.run(main())


def test_who_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2, "PREFACE_SECONDS", 0.1)

    async def main() -> None:
        async with serving() as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(PREFACE[:9])
            assert await reader.read() == b""
            writer.close()

    asyncio.run(main())


def test_a_call_that_comes_byte_by_byte() -> None:
    call = frame(HEADERS, 0, 1, PACKED_HEAD[:9]) + frame(CONTINUATION, 0, 1, PACKED_HEAD[9:20])
    call += frame(CONTINUATION, END_HEADERS, 1, PACKED_HEAD[20:]) + frame(0x77, 0, 0, b"unknown")
    call += frame(DATA, PADDED, 1, b"\x03" + message()[:3] + bytes(3))
    call += frame(DATA, END_STREAM, 1, message()[3:]) + frame(GOAWAY, 0, 0, bytes(8))
    sent = BEGIN + frame(PRIORITY, 0, 1, bytes(5)) + call

    async def main() -> None:
        async with serving() as server:
            frames = await exchange(server, [bytes([byte]) for byte in sent])
            assert [kind for kind, *_ in frames if kind in (HEADERS, DATA, GOAWAY)] == [
                HEADERS,
                DATA,
                HEADERS,
            ]
            assert (DATA, 0, 1, message()) in frames

    asyncio.run(main())


def test_more_streams_than_may_be_are_refused() -> None:
    async def main() -> None:
        async with serving(slow) as server, connected(server) as client:
            client.state.remote_settings[h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS] = 10**6
            client.state.remote_settings.acknowledge()
            last = 2 * http2.MAX_STREAMS + 1
            for stream in range(1, last + 1, 2):
                client.state.send_headers(stream, HEAD)
                client.state.send_data(stream, message(), end_stream=True)
            await client.flush()
            (reset,) = await client.until(h2.events.StreamReset)
            assert (reset.stream_id, reset.error_code) == (last, Code.REFUSED_STREAM)

    asyncio.run(main())


def test_streams_that_are_reset_at_once_leave_nothing() -> None:
    async def main() -> None:
        async with serving(slow) as server, connected(server) as client:
            for stream in range(1, 4001, 2):
                client.state.send_headers(stream, HEAD)
                client.state.send_data(stream, message(), end_stream=True)
                client.state.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
                if stream % 100 == 1:
                    await client.flush()
            client.state.ping(b"12345678")
            await client.flush()
            await client.until(h2.events.PingAckReceived)
            (connection,) = server._connections
            assert connection.streams == {}
            await asyncio.sleep(0.1)
            assert (
                len(asyncio.all_tasks()) == 2
            )  # this one, and the server's that looks for late calls

    asyncio.run(main())


def test_headers_of_http1_reset_their_stream_alone() -> None:
    packed = hpack.Encoder().encode([*HEAD, ("connection", "close")])
    call = frame(HEADERS, END_HEADERS | END_STREAM, 1, packed)
    packed = hpack.Encoder().encode([(name, value) for name, value in HEAD])
    call += frame(HEADERS, END_HEADERS, 3, PACKED_HEAD) + frame(DATA, END_STREAM, 3, message())

    async def main() -> None:
        async with serving() as server:
            sent = BEGIN + call + frame(GOAWAY, 0, 0, bytes(8))
            frames = await exchange(server, [sent])
            assert (RST_STREAM, 0, 1, struct.pack(">L", Code.PROTOCOL_ERROR)) in frames
            assert (DATA, 0, 3, message()) in frames

    asyncio.run(main())


def test_headers_that_are_too_long_refuse_their_call_alone() -> None:
    async def main() -> None:
        async with (
            serving() as server,
            grpc.aio.insecure_channel(server.address) as channel,
        ):
            call = channel.unary_unary(INFER)
            slow = [("a", "x" * 20_000)]
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call(b"", timeout=10, metadata=slow)
            assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert len(server._connections) == 1
            assert await call(b"", timeout=10) == b""

    asyncio.run(main())


@pytest.mark.parametrize(
    ("flood", "least"),
    [
        (10_000 * frame(WINDOW_UPDATE, 0, 1, struct.pack(">L", 1)), 1),
        (10_000 * frame(WINDOW_UPDATE, 0, 0, struct.pack(">L", 1)), 0),
        (2 * frame(SETTINGS, 0, 0, 10_000 * struct.pack(">HL", 4, 0)), 0),
        (10_000 * frame(SETTINGS, 0, 0, struct.pack(">HL", 4, 0)), 0),
    ],
    ids=["a stream's window", "the connection's", "long settings", "many settings"],
)
def test_a_flood_of_frames_is_looked_at_once(
    monkeypatch: pytest.MonkeyPatch, flood: bytes, least: int
) -> None:
    """Not once for each frame and each of the answers that wait."""
    sends: list[int] = []
    send = http2.Http2Connection._send

    def noted(self: http2.Http2Connection, stream: http2.Stream, pieces: Any) -> None:
        sends.append(stream.number)
        send(self, stream, pieces)

    async def main() -> None:
        async with serving() as server:
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            sent = PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HL", 4, 0))
            for stream in range(1, 2 * http2.MAX_STREAMS, 2):
                sent += frame(HEADERS, END_HEADERS, stream, PACKED_HEAD)
                sent += frame(DATA, END_STREAM, stream, message())
            writer.write(sent)
            (connection,) = await until_there(server._connections)
            while len([s for s in connection.streams.values() if s.unsent]) < http2.MAX_STREAMS:
                await asyncio.sleep(0.01)
            monkeypatch.setattr(http2.Http2Connection, "_send", noted)
            connection.data_received(flood)
            writer.close()

    asyncio.run(main())
    assert sends == [1] * least


async def until_there(connections: set[http2.Http2Connection]) -> set[http2.Http2Connection]:
    while not connections:
        await asyncio.sleep(0.01)
    return connections


def test_headers_are_remembered_while_they_mean_the_same() -> None:
    """Against the library alone, over blocks that repeat, change the table, and resize it."""
    chance = random.Random(0)
    encoder, reader, plain = hpack.Encoder(), HeadReader(), hpack.Decoder()
    hits = 0
    for number in range(3000):
        if number % 100 == 99:
            encoder.header_table_size = chance.choice((0, 60, 200, 4096))
        headers = {f"name-{chance.randrange(3)}": f"value {chance.randrange(2)}" for _ in range(2)}
        if chance.random() < 0.05:
            headers["new"] = str(number)
        block = encoder.encode(list(headers.items()))
        hits += block in reader._kept
        expected = {bytes(name): bytes(value) for name, value in plain.decode(block, raw=True)}
        assert reader.read(block) == expected
        assert len(reader._kept) <= KEPT_HEADS
    assert hits > 500


def test_what_a_full_table_did_not_take_is_read_again() -> None:
    reader = HeadReader()
    added = b"\x40\x01a\x01b"
    reader.read(b"\x20\x82")  # no table
    reader.read(added)
    reader.read(b"\x3f\xe1\x1f\x82")  # 4096 bytes
    reader.read(added)
    assert reader.read(b"\xbe") == {b"a": b"b"}


def test_a_size_of_the_table_is_never_forgotten() -> None:
    reader = HeadReader()
    grow, shrink = b"\x3f\xe1\x1f\x82", b"\x20\x82"  # 4096 and 0 bytes, then :method GET
    for block in (grow, shrink, grow):
        assert reader.read(block) == {b":method": b"GET"}
    reader.read(b"\x40\x01a\x01b")  # into the table, which has room
    assert reader.read(b"\xbe") == {b"a": b"b"}
    reader.read(shrink)
    with pytest.raises(ProtocolError):
        reader.read(b"\xbe")


@pytest.mark.parametrize(
    ("more", "data", "status", "text"),
    [
        ([("grpc-timeout", "soon")], message(), 13, "grpc-timeout is no time"),
        ([("grpc-encoding", "br")], message(), 12, "grpc-encoding br is not read"),
        ([], message()[:-1], 13, "one message was expected"),
        ([], message() * 2, 13, "one message was expected"),
        ([], b"", 13, "one message was expected"),
        ([], b"\x01" + message()[1:], 13, "no grpc-encoding"),
        ([("grpc-encoding", "gzip")], b"\x01" + message()[1:], 3, "cannot be unpacked"),
        ([], b"\x00\xff\xff\xff\xff", 8, "larger than max"),
    ],
)
def test_what_is_no_message_gets_its_status(
    more: list[tuple[str, str]], data: bytes, status: int, text: str
) -> None:
    async def main() -> None:
        async with serving() as server, connected(server) as client:
            await client.send(1, data, more)
            await client.until(h2.events.StreamEnded)
            assert client.trailers(1)["grpc-status"] == str(status)
            assert text in client.trailers(1)["grpc-message"]
            await client.send(3, message())
            await client.until(h2.events.StreamEnded, 2)
            assert client.trailers(3)["grpc-status"] == "0"

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["application/json", "application/grpc-web+proto"])
def test_what_is_no_grpc_has_an_http_status(kind: str) -> None:
    async def main() -> None:
        async with serving() as server, connected(server) as client:
            head = [*HEAD[:4], ("content-type", kind)]
            client.state.send_headers(1, head, end_stream=True)
            await client.flush()
            (response,) = await client.until(h2.events.ResponseReceived)
            assert dict(response.headers) == {":status": "415"}

    asyncio.run(main())


@pytest.mark.parametrize("sent", [b"", message()[:3], message()], ids=["nothing", "part", "no end"])
def test_a_message_that_comes_too_slowly_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(body, "BODY_SECONDS", 0.1)
    monkeypatch.setattr(grpc_server, "SWEEP_SECONDS", 0.05)

    async def main() -> None:
        async with serving() as server, connected(server) as client:
            await client.send(1, sent, end=False)
            await client.until(h2.events.StreamEnded)
            assert client.trailers(1)["grpc-status"] == "4"
            assert "too slowly" in client.trailers(1)["grpc-message"]

    asyncio.run(main())


def test_a_stream_is_longer_than_a_request_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's limit is of each request in it; the client's is of all."""
    monkeypatch.setattr(grpc_server, "SWEEP_SECONDS", 0.05)
    deadlines: list[float] = []

    async def answer(
        requests: AsyncIterator[Any], deadline: Callable[[], float | None]
    ) -> AsyncGenerator[Any, None]:
        async for _ in requests:
            deadlines.append((deadline() or 0) - time.monotonic())
            yield inference.ModelStreamInferResponse()

    async def main() -> None:
        async with streaming(answer, timeout=0.2) as server, connected(server) as client:
            head = head_of(STREAM)
            client.state.send_headers(1, head)
            client.state.send_headers(3, [*head, ("grpc-timeout", "300m")])
            for _ in range(5):
                client.state.send_data(1, message())
                await client.flush()
                await asyncio.sleep(0.1)
            await client.until(h2.events.DataReceived, 5)
            await client.until(h2.events.StreamEnded)
            assert client.trailers(3)["grpc-status"] == "4"
            client.state.end_stream(1)
            await client.flush()
            await client.until(h2.events.StreamEnded, 2)
            assert client.trailers(1)["grpc-status"] == "0"

    asyncio.run(main())
    assert len(deadlines) == 5
    assert all(0.1 < seconds <= 0.2 for seconds in deadlines)


def test_a_watch_lasts(dataplane: Dataplane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_server, "SWEEP_SECONDS", 0.05)

    async def main() -> None:
        server = create_grpc(dataplane, "127.0.0.1", 0, max_message_bytes=1000, timeout=0.2)
        async with server, connected(server) as client:
            watch = "/grpc.health.v1.Health/Watch"
            head = head_of(watch)
            for stream, messages in ((1, 1), (3, 0), (5, 2)):
                client.state.send_headers(stream, head)
                client.state.send_data(stream, messages * (b"\x00" + bytes(4)), end_stream=True)
            await client.flush()
            await client.until(h2.events.StreamEnded, 2)
            assert [client.trailers(stream)["grpc-status"] for stream in (3, 5)] == ["13", "13"]
            await asyncio.sleep(0.4)
            (connection,) = server._connections
            assert list(connection.streams) == [1]
            assert client.body(1) == b"\x00\x00\x00\x00\x02\x08\x01"  # SERVING

    asyncio.run(main())


def test_an_answer_that_nobody_takes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_server, "SWEEP_SECONDS", 0.05)
    monkeypatch.setattr(body, "BODY_SECONDS", 0.1)

    async def main() -> None:
        async with (
            serving(max_message_bytes=10**5) as server,
            connected(server, INITIAL_WINDOW_SIZE=1000) as client,
        ):
            await client.send(1, message("a" * 5000))
            (reset,) = await client.until(h2.events.StreamReset)
            assert reset.error_code == Code.CANCEL
            assert len(client.body(1)) == 1000

    asyncio.run(main())


@pytest.mark.parametrize("text", ["模" * 3000, "%" * 9000, "a" * 9000, "\U0001f600" * 1999])
def test_a_long_error_fits_in_a_header(text: str) -> None:
    async def wrong(request: Any, deadline: float | None) -> Any:
        raise InvalidInputError(text)

    async def main() -> None:
        async with serving(wrong) as server, connected(server) as client:
            await client.send(1, message())
            await client.until(h2.events.StreamEnded)
            assert client.trailers(1)["grpc-status"] == "3"
            said = client.trailers(1)["grpc-message"]
            assert 1000 < len(said) <= grpc_call.MAX_DETAILS
            assert text.startswith(unquote(said, errors="strict"))

    asyncio.run(main())


def test_messages_that_never_end_are_bounded() -> None:
    async def main() -> None:
        async with serving(max_message_bytes=10**6) as server, connected(server) as client:
            part = b"\x00" + struct.pack(">L", 10**6) + bytes(900_000)
            for stream in (1, 3, 5, 7, 9):
                await client.send_all(stream, part, end=False)
            await client.until(h2.events.StreamEnded)
            assert client.trailers(9)["grpc-status"] == "8"
            (connection,) = server._connections
            assert list(connection.streams) == [1, 3, 5, 7]
            assert connection.kept == 4 * len(part)
            for stream in (1, 3, 5, 7):
                client.state.reset_stream(stream)
            client.state.ping(b"12345678")
            await client.flush()
            await client.until(h2.events.PingAckReceived)
            assert connection.kept == 0

    asyncio.run(main())


def test_messages_that_are_complete_are_not_counted_as_unfinished() -> None:
    go = asyncio.Event()

    async def slow(request: Any, deadline: float | None) -> Any:
        await go.wait()
        return inference.ModelInferResponse()

    async def main() -> None:
        async with serving(slow, max_message_bytes=10**6) as server, connected(server) as client:
            streams = range(1, 21, 2)
            for stream in streams:
                await client.send_all(stream, message("a" * 900_000))
            go.set()
            await client.until(h2.events.StreamEnded, len(streams))
            assert {client.trailers(stream)["grpc-status"] for stream in streams} == {"0"}

    asyncio.run(main())


def test_a_long_stream_leaves_the_others_their_turn() -> None:
    turns = answers = 0

    async def at_once(
        requests: AsyncIterator[Any], deadline: Callable[[], float | None]
    ) -> AsyncGenerator[Any, None]:
        nonlocal answers
        async for _ in requests:
            answers += 1
            yield inference.ModelStreamInferResponse()

    async def turn() -> None:
        nonlocal turns
        while answers < 1000:
            turns += 1
            await asyncio.sleep(0)

    async def main() -> None:
        async with streaming(at_once) as server, connected(server) as client:
            client.state.send_headers(1, head_of(STREAM))
            client.state.send_data(1, 1000 * (b"\x00" + bytes(4)), end_stream=True)
            turning = asyncio.create_task(turn())
            await client.flush()
            await client.until(h2.events.StreamEnded)
            await turning

    asyncio.run(main())
    assert turns >= 1000


async def ask_without_reading(server: GrpcServer, calls: int) -> socket.socket:
    """Asks for answers of a megabyte each, with all the room in the windows for them."""
    client = socket.create_connection(("127.0.0.1", server.port))
    client.setblocking(False)
    sent = PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HL", 4, 2**31 - 1))
    sent += frame(WINDOW_UPDATE, 0, 0, struct.pack(">L", 2**30))
    for stream in range(1, 2 * calls, 2):
        sent += frame(HEADERS, END_HEADERS, stream, PACKED_HEAD)
        sent += frame(DATA, END_STREAM, stream, message())
    await asyncio.get_running_loop().sock_sendall(client, sent)
    return client


async def megabyte(request: Any, deadline: float | None) -> Any:
    return inference.ModelInferResponse(id="a" * 10**6)


def test_who_does_not_read_is_held_back_and_then_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_server, "SWEEP_SECONDS", 0.05)
    monkeypatch.setattr(body, "BODY_SECONDS", 0.3)
    monkeypatch.setattr(body, "SLOWEST_RATE", 10**9)

    async def main() -> None:
        async with serving(megabyte) as server:
            with await ask_without_reading(server, 100):
                (connection,) = await until_there(server._connections)
                await asyncio.sleep(0.2)
                buffered = connection.transport.get_write_buffer_size()
                assert 0 < buffered < 3 * 10**6  # not a hundred
                async with asyncio.timeout(10):
                    while server._connections:
                        await asyncio.sleep(0.01)

    asyncio.run(main())


def test_who_reads_late_gets_all() -> None:
    async def main() -> None:
        async with serving(megabyte) as server:
            with await ask_without_reading(server, 30) as client:
                await asyncio.sleep(0.3)
                loop, data = asyncio.get_running_loop(), bytearray()
                while data.count(b"grpc-status\x010") < 30:
                    piece = await loop.sock_recv(client, 2**20)
                    assert piece
                    data += piece
                assert len(data) > 30 * 10**6

    asyncio.run(main())


def test_a_call_whose_time_is_over_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one whose method does not look at its deadline."""
    monkeypatch.setattr(grpc_server, "SWEEP_SECONDS", 0.05)
    ended: list[bool] = []

    async def slow(request: Any, deadline: float | None) -> Any:
        try:
            await asyncio.sleep(20)
        finally:
            ended.append(True)

    async def main() -> None:
        async with serving(slow) as server, connected(server) as client:
            await client.send(1, message(), [("grpc-timeout", "100m")])
            await client.until(h2.events.StreamEnded)
            assert client.trailers(1)["grpc-status"] == "4"
        assert ended

    asyncio.run(main())


def test_what_takes_long_on_purpose_is_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's limit is told to a method; to load a model takes as long as it takes."""
    monkeypatch.setattr(grpc_server, "SWEEP_SECONDS", 0.05)

    async def load(request: Any, deadline: float | None) -> Any:
        await asyncio.sleep(0.4)
        return inference.ModelInferResponse(id=f"{(deadline or 0) - time.monotonic():.1f}")

    async def main() -> None:
        async with serving(load, timeout=0.1) as server, connected(server) as client:
            await client.send(1, message())
            await client.until(h2.events.StreamEnded)
            assert client.body(1)[5:] == inference.ModelInferResponse(id="-0.3").SerializeToString()

    asyncio.run(main())


def test_an_error_in_a_stream_comes_behind_what_was_sent() -> None:
    async def one_and_all(
        requests: AsyncIterator[Any], deadline: float | None
    ) -> AsyncGenerator[Any, None]:
        yield inference.ModelStreamInferResponse(error_message="first")
        async for _ in requests:
            pass

    async def main() -> None:
        async with streaming(one_and_all) as server, connected(server) as client:
            head = head_of(STREAM)
            client.state.send_headers(1, head)
            await client.flush()
            await client.until(h2.events.DataReceived)
            client.state.send_data(1, b"\x00\xff\xff\xff\xff")
            await client.flush()
            (trailers,) = await client.until(h2.events.TrailersReceived)
            assert dict(trailers.headers)["grpc-status"] == "8"

    asyncio.run(main())


def test_the_end_is_announced_and_then_enforced() -> None:
    async def main() -> None:
        async with serving(slow, grace=0.4) as server:
            sent = BEGIN + CALL
            sent += frame(DATA, END_STREAM, 1, message())
            talking = asyncio.create_task(exchange(server, [sent]))
            await asyncio.sleep(0.1)
            await server.__aexit__()
            frames = await talking
            goaways = [payload for kind, _, _, payload in frames if kind == GOAWAY]
            assert goaways == [b"\x7f\xff\xff\xff" + bytes(4), b"\x00\x00\x00\x01" + bytes(4)]
            (answer,) = [payload for kind, _, _, payload in frames if kind == HEADERS]
            headers = [tuple(pair) for pair in hpack.Decoder().decode(answer, raw=True)]
            assert (b"grpc-status", b"14") in headers
            assert (b"grpc-message", b"the server stops; ask again") in headers

    asyncio.run(main())


def test_a_stream_of_messages_is_held_back_to_what_is_taken() -> None:
    """A client that keeps to its window gets all answers; the server never holds more than that."""
    held = 0

    async def slow(
        requests: AsyncIterator[Any], deadline: float | None
    ) -> AsyncGenerator[Any, None]:
        nonlocal held
        async for request in requests:
            (connection,) = server._connections
            (call,) = connection.streams.values()
            assert isinstance(call, BidirectionalCall)
            held = max(held, len(call._body))
            assert connection.kept == call.kept == len(call._body)
            await asyncio.sleep(0.001)
            yield inference.ModelStreamInferResponse(error_message=request.id[:9])

    async def requests() -> AsyncGenerator[bytes, None]:
        for number in range(200):
            yield inference.ModelInferRequest(id=f"{number:09}" * 5000).SerializeToString()

    async def main() -> list[str]:
        async with server, grpc.aio.insecure_channel(server.address) as channel:
            call = channel.stream_stream(STREAM)(requests(), timeout=20)
            parse = inference.ModelStreamInferResponse.FromString
            return [parse(body).error_message async for body in call]

    server = streaming(slow)
    assert asyncio.run(main()) == [f"{number:09}" for number in range(200)]
    assert 10**5 < held <= http2.STREAM_WINDOW


def test_who_exceeds_the_window_of_a_stream_is_told() -> None:
    async def never(
        requests: AsyncIterator[Any], deadline: float | None
    ) -> AsyncGenerator[Any, None]:
        await asyncio.sleep(20)
        yield inference.ModelStreamInferResponse()

    async def main() -> None:
        async with streaming(never) as server:
            head = head_of(STREAM)
            sent = BEGIN
            sent += frame(HEADERS, END_HEADERS, 1, hpack.Encoder().encode(head))
            sent += 12 * frame(DATA, 0, 1, b"\x00" + struct.pack(">L", 10**5) + bytes(10**5))
            frames = await exchange(server, [sent])
            (goaway,) = [payload for kind, _, _, payload in frames if kind == GOAWAY]
            assert int.from_bytes(goaway[4:8]) == Code.FLOW_CONTROL_ERROR

    asyncio.run(main())


def test_a_deadline_reaches_the_core(dataplane: Dataplane) -> None:
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 8, 8, 1]}
    request = inference.ModelInferRequest(
        model_name="grey", inputs=[tensor], raw_input_contents=[bytes(64)]
    ).SerializeToString()
    data = b"\x00" + struct.pack(">L", len(request)) + request

    async def main() -> None:
        server = create_grpc(dataplane, "127.0.0.1", 0, max_message_bytes=1000)
        async with server, connected(server) as client:
            for stream, timeout, status in ((1, "1n", "4"), (3, "9S", "0")):
                await client.send(stream, data, [("grpc-timeout", timeout)])
                await client.until(h2.events.StreamEnded, (stream + 1) // 2)
                assert client.trailers(stream)["grpc-status"] == status

    asyncio.run(main())
