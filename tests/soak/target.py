"""What every attack needs: the server's addresses, connections to it, and a pace.

Attackers come from 127.0.0.2, but for those that use gRPC's own client, so that a limit for each
client's address does not fall on the well-behaved clients, which come from 127.0.0.1.
"""

import asyncio
import contextlib
import socket
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio

from tests.serve.transport.grpc.frames import PREFACE, SETTINGS, Client, frame

HOST, SOURCE = "127.0.0.1", "127.0.0.2"
# Bytes a second of all attackers together: lines of 100 Mbit/s for floods of small things, of
# 1 Gbit/s for what is large, and of 10 Gbit/s for what is sent once and then held.
FLOOD, BULK, BURST = 12_500_000, 125_000_000, 1_250_000_000
PIECE = 2**16  # bytes that are written at a time
PREDICT = "/tensorflow.serving.PredictionService/Predict"
INFER = "/inference.GRPCInferenceService/ModelInfer"
# What a connection that the server ends raises, at whichever step that is.
LOST = (ConnectionError, asyncio.IncompleteReadError, OSError)


class Pace:
    """Bytes that leave no faster than a line carries them."""

    def __init__(self, bytes_per_second: float) -> None:
        self.sent = 0
        self._rate = bytes_per_second
        self._free = time.monotonic()  # when the line is free again

    async def send(self, writer: asyncio.StreamWriter, content: bytes) -> None:
        """Write piece by piece when the line is free, as far as the server reads."""
        for at in range(0, len(content), PIECE):
            piece = content[at : at + PIECE]
            writer.write(piece)
            await writer.drain()
            await self.wait(len(piece))

    async def wait(self, size: int) -> None:
        """Wait until the line has carried so many bytes more."""
        now = time.monotonic()
        self.sent += size
        self._free = max(self._free, now) + size / self._rate
        await asyncio.sleep(self._free - now)


@dataclass
class Target:
    """A server under attack."""

    http_port: int
    grpc_port: int
    models: Path  # its model repository
    model: str = "digits"  # takes images of side x side x 1 pixels
    side: int = 32
    spare: str = "spare"  # a model that may be unloaded
    answers: Counter[str] = field(default_factory=Counter)  # statuses that the attackers received
    flood: Pace = field(default_factory=lambda: Pace(FLOOD))
    bulk: Pace = field(default_factory=lambda: Pace(BULK))
    burst: Pace = field(default_factory=lambda: Pace(BURST))

    @property
    def classify(self) -> str:
        return f"/v1/models/{self.model}:classify-image"

    @property
    def predict(self) -> str:
        return f"/v1/models/{self.model}:predict"

    @property
    def infer(self) -> str:
        return f"/v2/models/{self.model}/infer"

    @asynccontextmanager
    async def http(
        self, receive_buffer: int = 2**18
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Open a connection to the HTTP port, and close it with a reset at the end."""
        reader, writer = await _connect(self.http_port, receive_buffer)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    @asynccontextmanager
    async def http2(self) -> AsyncIterator[Client]:
        """Open a connection to the gRPC port and send HTTP/2's preface."""
        client = Client(*await _connect(self.grpc_port, 2**18))
        client.send(PREFACE, frame(SETTINGS, 0, 0, b""))
        try:
            yield client
        finally:
            client.writer.transport.abort()

    async def post(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> str:
        """Send a request on a connection of its own, count the status and return it."""
        async with self.http() as (reader, writer):
            writer.write(head(path, len(body), headers))
            with contextlib.suppress(*LOST):  # refused before all is sent: the answer is there
                await self.bulk.send(writer, body)
            status = await read_answer(reader)
        self.answers[status] += 1
        return status

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[grpc.aio.Channel]:
        """Open a real gRPC channel, without a limit for what is sent."""
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
        async with grpc.aio.insecure_channel(f"{HOST}:{self.grpc_port}", options) as channel:
            yield channel

    async def call(self, channel: grpc.aio.Channel, path: str, message: bytes) -> str:
        """Send a message, count the status and return it."""
        try:
            await self.bulk.wait(len(message))
            await channel.unary_unary(path)(message, timeout=60)
            status = "OK"
        except grpc.aio.AioRpcError as error:
            status = error.code().name
        self.answers[status] += 1
        return status


async def _connect(
    port: int, receive_buffer: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    connection = socket.socket()
    try:
        connection.setblocking(False)
        # Before the connection, or the kernel has promised the server more than that.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        # Closing resets the connection, so that thousands of attackers leave no port in TIME_WAIT.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.bind((SOURCE, 0))
        await asyncio.get_running_loop().sock_connect(connection, (HOST, port))
        return await asyncio.open_connection(sock=connection, limit=receive_buffer)
    except BaseException:
        connection.close()
        raise


def head(path: str, length: int | None, headers: Mapping[str, str] | None = None) -> bytes:
    """Return the head of a POST; without a length, of one in chunks."""
    lines = [f"POST {path} HTTP/1.1", "Host: x"]
    lines.append("Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}")
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode()


async def read_answer(reader: asyncio.StreamReader) -> str:
    """Read an HTTP answer and return its status."""
    received = await reader.readuntil(b"\r\n\r\n")
    lines = received.decode("latin-1").lower().split("\r\n")
    lengths = [line.split(":")[1] for line in lines if line.startswith("content-length:")]
    await reader.readexactly(int(lengths[0]) if lengths else 0)
    return lines[0].split()[1]


async def repeat(target: Target, clients: int, attack: Callable[[], Awaitable[object]]) -> None:
    """Run an attack in so many clients at the same time, again and again, until cancelled."""

    async def client() -> None:
        while True:
            try:
                await attack()
            except LOST as error:
                target.answers[f"lost: {type(error).__name__}"] += 1
                await asyncio.sleep(0.05)  # as long as a client on the network needs to come back

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())


async def run(attack: Callable[[Target], Awaitable[None]], target: Target, seconds: float) -> None:
    """Attack for so many seconds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await attack(target)
