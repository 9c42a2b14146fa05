"""Attacks on the gRPC port: frames of HTTP/2 that no client sends, and messages. Endless."""

import asyncio
import contextlib
import gzip
import struct
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from itertools import count, cycle

from tests.serve.transport.grpc.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    SETTINGS,
    Client,
    call_headers,
    frame,
)

from . import payloads
from .http_attacks import STEP
from .target import INFER, LOST, PREDICT, Target, repeat

RST_STREAM, WINDOW_UPDATE, CONTINUATION = 3, 8, 9
CANCEL = struct.pack(">L", 8)
CONNECTIONS = 4  # of a flood, half of which read what the server answers
BLOCK = 50_000  # bytes that a flood sends at a time
UNFINISHED_BYTES = 30_000_000
_MAX_FRAME = 16_384


async def rapid_reset(target: Target) -> None:
    """Begin calls and reset each at once."""

    def frames() -> Iterator[bytes]:
        for stream in count(1, 2):
            yield call_headers(stream, PREDICT) + frame(RST_STREAM, 0, stream, CANCEL)

    await _flood(target, frames)


async def pings(target: Target) -> None:
    """Send pings."""
    await _flood(target, lambda: cycle([frame(PING, 0, 0, bytes(8))]))


async def settings(target: Target) -> None:
    """Send settings."""
    setting = struct.pack(">HL", 3, 100)  # SETTINGS_MAX_CONCURRENT_STREAMS
    await _flood(target, lambda: cycle([frame(SETTINGS, 0, 0, setting)]))


async def continuation(target: Target) -> None:
    """Send headers without an end."""
    header = b"".join([bytes([0, 7]), b"x-large", bytes([100]), bytes(100)])

    def frames() -> Iterator[bytes]:
        yield frame(HEADERS, 0, 1, call_headers(1, PREDICT)[9:])
        while True:
            yield frame(CONTINUATION, 0, 1, header * 100)

    await _flood(target, frames)


async def empty_data(target: Target) -> None:
    """Send a call's DATA frames without a byte in them."""

    def frames() -> Iterator[bytes]:
        yield call_headers(1, PREDICT)
        while True:
            yield frame(DATA, 0, 1, b"")

    await _flood(target, frames)


async def hpack(target: Target) -> None:
    """Put a header of 3 KB into the table, and name it 3,000 times in each call, by a byte each."""
    value = bytes(3000)
    length = b"\x7f" + payloads.varint(len(value) - 127)
    insert = bytes([0x40, 1]) + b"x" + length + value

    def frames() -> Iterator[bytes]:
        for stream in count(1, 2):
            block = call_headers(stream, PREDICT)[9:] + (insert if stream == 1 else b"")
            yield frame(HEADERS, END_HEADERS | END_STREAM, stream, block + b"\xbe" * 3000)

    await _flood(target, frames)


async def unfinished_messages(target: Target) -> None:
    """Send 30 of a message's 31 MB on 40 connections, as far as the windows allow, and wait."""

    async def client() -> None:
        async with target.http2() as connection:
            connection.send(call_headers(1, PREDICT))
            prefix = struct.pack(">BL", 0, UNFINISHED_BYTES + 1_000_000)
            await _upload(target, connection, prefix + bytes(UNFINISHED_BYTES))
            await connection.until_closed()
        target.answers["closed"] += 1

    await repeat(target, 40, client)


async def unfinished_calls(target: Target) -> None:
    """Send the headers of 100 calls on each of 20 connections, and wait."""

    async def client() -> None:
        async with target.http2() as connection:
            connection.send(*(call_headers(stream, PREDICT) for stream in range(1, 200, 2)))
            await connection.until_closed()
        target.answers["closed"] += 1

    await repeat(target, 20, client)


def messages(path: str, case: str) -> Callable[[Target], Awaitable[None]]:
    """Return the attack of four clients that send a hostile message again and again."""

    async def attack(target: Target) -> None:
        message = payloads.protobuf(case)

        async def client() -> None:
            async with target.channel() as channel:
                while True:
                    await target.call(channel, path, message)

        await repeat(target, 4, client)

    return attack


async def repeated_values(target: Target) -> None:
    """Send small messages whose tensors have few values and a large shape."""
    kinds = [payloads.repeated_values(target.model, target.side, inputs) for inputs in (1, 1_400)]
    messages = cycle(kinds)

    async def client() -> None:
        async with target.channel() as channel:
            while True:
                await target.call(channel, PREDICT, next(messages))

    await repeat(target, 100, client)


async def gzip_messages(target: Target) -> None:
    """Send messages of 31 MB that gzip has made small enough for a stream's first window."""
    packed = gzip.compress(payloads.protobuf("v2-uint_contents"), 9)
    content = struct.pack(">BL", 1, len(packed)) + packed
    encoding = b"\0\x0dgrpc-encoding\4gzip"

    async def client() -> None:
        async with target.http2() as connection:
            headers = call_headers(1, INFER)[9:] + encoding
            connection.send(frame(HEADERS, END_HEADERS, 1, headers))
            pieces = [content[at : at + _MAX_FRAME] for at in range(0, len(content), _MAX_FRAME)]
            for piece in pieces:
                end = END_STREAM if piece is pieces[-1] else 0
                await target.bulk.send(connection.writer, frame(DATA, end, 1, piece))
            await connection.until(HEADERS, END_STREAM)
        target.answers["answered"] += 1

    assert len(content) < 65_535
    await repeat(target, 40, client)


async def cancels(target: Target) -> None:
    """Cancel calls in their headers, in their message and during inference; drop connections."""
    message = good_v2(target)
    body = struct.pack(">BL", 0, len(message)) + message

    async def client() -> None:
        async with target.http2() as connection:
            for stream in range(1, 20, 2):
                cut = (0, 20, len(body))[stream % 3]
                connection.send(call_headers(stream, INFER), frame(DATA, 0, stream, body[:cut]))
                await asyncio.sleep(STEP)
                connection.send(frame(RST_STREAM, 0, stream, CANCEL))

    await repeat(target, 8, client)


def good_v2(target: Target) -> bytes:
    """Return a right request of the Open Inference Protocol, of one image."""
    from keras_cnns_serve.protos import inference

    shape = [1, target.side, target.side, 1]
    message = inference.ModelInferRequest(
        model_name=target.model,
        inputs=[{"name": "images", "datatype": "UINT8", "shape": shape}],
        raw_input_contents=[bytes(target.side**2)],
    )
    return bytes(message.SerializeToString())


async def _flood(target: Target, frames: Callable[[], Iterator[bytes]]) -> None:
    """Send frames on a few connections, and read the answers on half of them.

    A connection that is closed is opened anew.
    """

    async def client(reading: bool) -> None:
        async with target.http2() as connection:
            if not reading:
                connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
            discarding = asyncio.ensure_future(_discard(connection))
            try:
                for block in _blocks(frames()):
                    await target.flood.send(connection.writer, block)
            finally:
                discarding.cancel()

    async with asyncio.TaskGroup() as group:
        for reading in (True, False):
            group.create_task(repeat(target, CONNECTIONS // 2, partial(client, reading)))


def _blocks(frames: Iterator[bytes]) -> Iterator[bytes]:
    """Join frames to blocks that are worth a system call."""
    block = bytearray()
    for each in frames:
        block += each
        if len(block) >= BLOCK:
            yield bytes(block)
            block.clear()


async def _discard(connection: Client) -> None:
    with contextlib.suppress(*LOST):
        while await connection.reader.read(2**16):
            pass


async def _upload(target: Target, connection: Client, content: bytes) -> None:
    """Send a stream's content as fast as the two windows allow; return when it is reset."""
    windows = {0: 65_535, 1: 65_535}
    initial = 65_535
    sent = 0
    while sent < len(content):
        room = min(*windows.values(), _MAX_FRAME, len(content) - sent)
        if room > 0:
            content_ = frame(DATA, 0, 1, content[sent : sent + room])
            await target.burst.send(connection.writer, content_)
            sent += room
            windows = {stream: left - room for stream, left in windows.items()}
            continue
        kind, flags, stream, payload = await connection.read()
        if kind == WINDOW_UPDATE:
            windows[stream] += int.from_bytes(payload, "big")
        elif kind == SETTINGS and not flags:
            for at in range(0, len(payload), 6):
                name, value = struct.unpack(">HL", payload[at : at + 6])
                if name == 4:  # SETTINGS_INITIAL_WINDOW_SIZE
                    windows[1] += value - initial
                    initial = value
            connection.send(frame(SETTINGS, 1, 0, b""))
        elif kind == PING and not flags:
            connection.send(frame(PING, 1, 0, payload))
        elif kind in (RST_STREAM, HEADERS):
            return
