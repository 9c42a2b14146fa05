"""uvicorn's fast HTTP protocol, with limits to what stands before a body, and whole answers.

httptools collects a head of any length; a client could fill the memory with one. uvicorn writes
an answer's head and body apart: two calls of the system and two packets, where one is enough.
A request of a head that is known goes the short way (`short_way.py`).
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from .asgi import ARRIVED, HANG_UP, HUNG_UP, WHOLE, App, FastRoute, Request
from .short_way import Known, ShortCycle, ShortWay, split

logger = logging.getLogger(__name__)

LAST_SECONDS = 0.2  # for a request on its way as the server stops
HEAD_SECONDS = 20  # for the head, from a connection's beginning or a later request's
MAX_HEAD_BYTES = 64 * 2**10  # the request line and the headers
# To a head that does not end.
TOO_SLOW = STATUS_LINE[408] + b"content-length: 0\r\nconnection: close\r\n\r\n"
MAX_PIPELINED = 8  # requests that wait for an earlier one's answer, before reading pauses


class HttpProtocol(HttpToolsProtocol):
    """One connection.

    Args:
        short: the way that is taken where it can be; None for where something stands before the
            application.
        arguments, options: uvicorn's.
    """

    last_answers = False  # of all connections: the server stops, each answer is the last on its own

    _head = 0  # bytes of the head, as far as parsed
    _unparsed = 0  # bytes that came since the head began, while it is not complete
    _in_head = True
    _timer: asyncio.TimerHandle | None = None  # of a head that is not complete
    _hung_up: Callable[[], None] | None = None  # who wants to know
    _answered: RequestResponseCycle | None = None  # its request
    _is_between = True  # requests: what comes begins one
    _idle_since = 0.0  # on the loop's clock

    _on_short_way: tuple[Request, asyncio.Task[None]] | None = None  # what is

    def __init__(self, *arguments: Any, short: ShortWay | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._short = short

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there: its request should be soon, too."""
        super().connection_made(transport)
        self._wait()
        if self.last_answers:
            self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._wait_no_more()
        super().connection_lost(exc)
        if self._on_short_way is not None:
            request, task = self._on_short_way
            request.hung_up = True
            task.cancel()
        if self._hung_up is not None and self._answered is not None:
            self._answered.disconnected = True  # uvicorn tells the latest of several alone
            self._hung_up()

    def data_received(self, data: bytes) -> None:
        """Takes what came the short way, or parses it."""
        whole = None
        short = self._short if self._is_between and self._is_answered() else None
        if short is not None and (whole := split(data)) is not None:
            known = short.get(whole[0])
            if known is not None:
                self._begin_short(known, short.app, whole[1])
                return
        super().data_received(data)
        if short is not None and whole is not None and self._is_between:
            cycle = self.cycle
            read = isinstance(cycle, RequestResponseCycle) and cycle.scope is self.scope
            if read and cycle.keep_alive:
                short.keep(whole[0], dict(cycle.scope))
        if self._in_head and not self.transport.is_closing():
            self._unparsed += len(data)
            if self._timer is None:
                self._wait()
            if self._unparsed > MAX_HEAD_BYTES:
                self.send_400_response("The head of the request is too long.")

    def on_message_begin(self) -> None:
        """A request begins."""
        self._head = self._unparsed = 0
        self._in_head = True
        self._is_between = False
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
        self._wait_no_more()
        super().on_headers_complete()
        if 0 < len(self.pipeline) < MAX_PIPELINED:
            self.flow.resume_reading()  # or we would not see that the client hangs up
        scope = self.scope
        if self.cycle is not None and self.last_answers:
            self.cycle.keep_alive = False
        if self.cycle is not None and self.cycle.scope is scope and scope["method"] != "HEAD":
            extensions: Any = {
                ARRIVED: partial(_arrived, self.cycle),
                HANG_UP: partial(self._listen, self.cycle),
                WHOLE: partial(_send_whole, self.cycle),
            }
            scope["extensions"] = extensions

    def on_message_complete(self) -> None:
        """A request is complete."""
        self._is_between = True
        super().on_message_complete()

    def timeout_keep_alive_handler(self) -> None:
        """Closes a connection that nobody uses."""
        self.timeout_keep_alive_task = None
        if not self._is_answered():
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._close_after(left)
        else:
            super().timeout_keep_alive_handler()

    def shutdown(self) -> None:
        """The server stops. What has come already, unread, is read and answered first."""
        self.loop.call_later(LAST_SECONDS, super().shutdown)

    def _is_answered(self) -> bool:
        """Whether no request waits for its answer."""
        return self.cycle is None or self.cycle.response_complete

    def _begin_short(self, known: Known, app: App, body: bytes) -> None:
        self._wait_no_more()
        self._in_head = False
        headers = [*known.scope["headers"], (b"content-length", b"%d" % len(body))]
        scope = {**known.scope, "headers": headers, "client": self.client}
        request = Request(scope, known.path, app.max_body_bytes, body)
        cycle: Any = ShortCycle()
        self.cycle = cycle
        task = self.loop.create_task(self._answer_short(cycle, request, app, known.route))
        self._on_short_way = request, task
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _answer_short(
        self, cycle: ShortCycle, request: Request, app: App, route: FastRoute
    ) -> None:
        status = HUNG_UP
        try:
            reply = await app.answer(route, request)
            if self.flow.write_paused and not cycle.disconnected:
                await self.flow.drain()
            if reply is not None:
                status = reply.status
                if not cycle.disconnected and not self.transport.is_closing():
                    headers = (*self.server_state.default_headers, *reply.lines())
                    _write(self.transport, cycle, status, headers, reply.body)
        except Exception:
            logger.exception("a request failed")
            status = 500
            self.transport.close()
        finally:
            app.finish(request.scope, status, request.arrived)
            cycle.response_complete = True
            self._on_short_way = None
        if self.pipeline or self.transport.is_closing():
            self.on_response_complete()
            return
        self.server_state.total_requests += 1
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._close_after(self.timeout_keep_alive)

    def _close_after(self, seconds: float) -> None:
        handle = self.loop.call_later(seconds, self.timeout_keep_alive_handler)
        self.timeout_keep_alive_task = handle

    def _listen(self, cycle: RequestResponseCycle, call: Callable[[], None] | None) -> None:
        """Calls when the client hangs up, or at once if it has; None ends that."""
        self._answered, self._hung_up = cycle, call
        if call is not None:
            self.flow.resume_reading()  # which ends while a long body waits to be taken
            if self.parser is None:  # the connection is lost
                cycle.disconnected = True
                call()

    def _wait(self) -> None:
        self._timer = self.loop.call_later(HEAD_SECONDS, self._too_slow)

    def _wait_no_more(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        if self.transport.is_closing():
            return
        if not self._is_answered():
            self._wait()  # an earlier request has its answer first
            return
        if self._unparsed:
            self.transport.write(TOO_SLOW)
        self.transport.close()

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > MAX_HEAD_BYTES:
            raise ValueError("the head is too long")  # httptools makes a 400 of it


def _arrived(cycle: RequestResponseCycle, max_bytes: int) -> bytes | None:
    """The body, where all of it has come and no limit is to be looked after."""
    if cycle.more_body or cycle.disconnected or len(cycle.body) > max_bytes:
        return None
    body, cycle.body = bytes(cycle.body), bytearray()
    cycle.flow.resume_reading()
    return body


async def _send_whole(
    cycle: RequestResponseCycle, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes
) -> None:
    """Writes an answer of known length at once; `headers` are ours, not a client's."""
    if cycle.flow.write_paused and not cycle.disconnected:
        await cycle.flow.drain()
    if cycle.disconnected or cycle.transport.is_closing():
        return
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    _write(cycle.transport, cycle, status, (*cycle.default_headers, *headers), body)
    cycle.message_event.set()
    cycle.on_response()


def _write(
    transport: asyncio.Transport,
    cycle: RequestResponseCycle | ShortCycle,
    status: int,
    headers: Sequence[tuple[bytes, bytes]],
    body: bytes,
) -> None:
    """Writes an answer; the last on its connection closes it."""
    if HttpProtocol.last_answers or any(name == b"connection" for name, _ in headers):
        cycle.keep_alive = False
    lines = [STATUS_LINE[status]]
    for name, value in headers:
        if name != b"connection":
            lines += (name, b": ", value, b"\r\n")
    lines += (b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n", body)
    transport.write(b"".join(lines))
    if not cycle.keep_alive:
        transport.close()
