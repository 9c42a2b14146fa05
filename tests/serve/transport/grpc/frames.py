"""HTTP/2 by hand, for what no client does on purpose: half messages, windows that stay closed."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

DATA, HEADERS, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 4, 6, 7, 8
END_STREAM = ACK = 1
END_HEADERS = 4
INITIAL_WINDOW_SIZE = 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return (
        struct.pack(">HBBBL", len(payload) >> 8, len(payload) & 255, kind, flags, stream) + payload
    )


def call_headers(stream: int, path: str, **metadata: bytes) -> bytes:
    """The beginning of a call, with each header as a literal."""
    headers = {
        ":method": b"POST",
        ":scheme": b"http",
        ":path": path.encode(),
        ":authority": b"x",
        "content-type": b"application/grpc",
        "te": b"trailers",
    } | {name.replace("_", "-"): value for name, value in metadata.items()}
    block = b"".join(
        bytes([0, len(name)]) + name.encode() + bytes([len(value)]) + value
        for name, value in headers.items()
    )
    return frame(HEADERS, END_HEADERS, stream, block)


class Client:
    """A connection, and the frames that came: kind, flags, stream, payload."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.frames: list[tuple[int, int, int, bytes]] = []

    def send(self, *frames: bytes) -> None:
        self.writer.write(b"".join(frames))

    async def read(self) -> tuple[int, int, int, bytes]:
        """The next frame; IncompleteReadError when the server has closed the connection."""
        high, low, kind, flags, stream = struct.unpack(">HBBBL", await self.reader.readexactly(9))
        payload = await self.reader.readexactly(high << 8 | low)
        self.frames.append((kind, flags, stream, payload))
        return self.frames[-1]

    async def until(self, kind: int, flags: int = 0) -> bytes:
        """Read until there is such a frame, and return its payload."""
        while True:
            found = await self.read()
            if found[0] == kind and found[1] & flags == flags:
                return found[3]

    async def until_closed(self) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await self.read()


@asynccontextmanager
async def connect(port: int, window: int = 65_535) -> AsyncIterator[Client]:
    """Connect, with so many bytes of room for each answer."""
    client = Client(*await asyncio.open_connection("127.0.0.1", port))
    settings = struct.pack(">HL", INITIAL_WINDOW_SIZE, window)
    client.send(PREFACE, frame(SETTINGS, 0, 0, settings))
    try:
        yield client
    finally:
        client.writer.close()
