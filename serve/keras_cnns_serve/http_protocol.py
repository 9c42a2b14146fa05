"""uvicorn's fast HTTP protocol, with a limit to what stands before a body, and whole answers.

httptools collects a head of any length; a client could fill the memory with one. uvicorn writes
an answer's head and body apart: two calls of the system and two packets, where one is enough.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from .asgi import WHOLE

MAX_HEAD_BYTES = 64 * 2**10  # the request line and the headers


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    _head = 0  # bytes of the head, as far as parsed
    _unparsed = 0  # bytes that came since the head began, while it is not complete
    _in_head = True

    def data_received(self, data: bytes) -> None:
        """Parses what came."""
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._unparsed += len(data)
            if self._unparsed > MAX_HEAD_BYTES:
                self.send_400_response("The head of the request is too long.")

    def on_message_begin(self) -> None:
        """A request begins."""
        self._head = self._unparsed = 0
        self._in_head = True
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of the address."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The body begins."""
        self._in_head = False
        super().on_headers_complete()
        scope = self.scope
        if self.cycle is not None and self.cycle.scope is scope and scope["method"] != "HEAD":
            extensions: Any = {WHOLE: partial(_send_whole, self.cycle)}
            scope["extensions"] = extensions

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > MAX_HEAD_BYTES:
            raise ValueError("the head is too long")  # httptools makes a 400 of it


async def _send_whole(
    cycle: RequestResponseCycle, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes
) -> None:
    """Writes an answer of known length at once; `headers` are ours, not a client's."""
    if cycle.flow.write_paused and not cycle.disconnected:
        await cycle.flow.drain()
    if cycle.disconnected:
        return
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    lines = [STATUS_LINE[status]]
    for name, value in (*cycle.default_headers, *headers):
        lines += (name, b": ", value, b"\r\n")
    if not cycle.keep_alive:
        lines.append(b"connection: close\r\n")
    lines += (b"\r\n", body)
    cycle.transport.write(b"".join(lines))
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
