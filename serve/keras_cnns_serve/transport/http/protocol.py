"""uvicorn's HTTP protocol on httptools, with the limits for which uvicorn has no public hook.

Everything else is uvicorn's. The overridden methods and the attributes of a connection and of a
request (`RequestResponseCycle`) that are read here are the same in the tested range of versions,
which pyproject.toml states.
"""

import asyncio
import logging
import math
from collections.abc import Sized
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from keras_cnns_serve.core.limits import MIN_BYTES_PER_SECOND

from .body import DRAIN_SECONDS

logger = logging.getLogger(__name__)

MAX_HEAD_BYTES = 64 * 2**10  # the request line and the headers; a chunk's head; a trailer
MAX_HEADERS = 256
HEAD_SECONDS = 20  # for a head, from the connection's beginning or the head's first byte; for TLS's
PIECE_BYTES = 2**10  # parsed at once, where it may be more than the body of one request
PARSE_SECONDS = 0.001  # for what one connection has sent at once ...
TURN_SECONDS = 0.003  # ... and then for the other connections, and for answers
MAX_JOINED_BYTES = 64 * 2**10  # written at once; joining more costs more than a system call
FINAL_READ_SECONDS = 0.05  # for a request on its way to an idle connection as the server stops
PROBE_SECONDS = 0.125  # before the first probe of a half-closed connection; then twice as long
NUM_PROBES = 4  # clients in Go accept at most five interim responses
HANDSHAKE_SECONDS = 1  # a handshake that takes longer makes room for another connection
REFUSAL_SECONDS = 1  # for a client that is refused with its connection, to end TLS
MAX_REASON = 200  # characters
CLOSE = b"content-length: 0\r\nconnection: close\r\n\r\n"
TOO_SLOW = STATUS_LINE[408] + CLOSE
FULL = STATUS_LINE[503] + b"retry-after: 1\r\n" + CLOSE


@dataclass
class Connections:
    """What the connections of a server have in common.

    Args:
        timeout: Seconds after which a connection ends whose client sends or reads too little.
        limit: Connections that are open at the same time, with those in their TLS handshake.
    """

    timeout: float = 75.0
    limit: int = 4096
    # Those in their TLS handshake, with its beginning on the loop's clock, the first first.
    handshakes: "dict[asyncio.Task[None], float]" = field(default_factory=dict)
    # Those that wait for their first request, and for another; the first of each waits longest.
    unused: "dict[HttpProtocol, None]" = field(default_factory=dict)
    waiting: "dict[HttpProtocol, None]" = field(default_factory=dict)
    next_turn: float = 0.0  # of a connection to go on with parsing, on the loop's clock

    def turn(self, now: float) -> float:
        """Return when a connection whose time is over may go on."""
        self.next_turn = max(self.next_turn, now) + TURN_SECONDS
        return self.next_turn

    @property
    def head_seconds(self) -> float:
        """For a head, or a TLS handshake."""
        return min(HEAD_SECONDS, self.timeout)

    def free(self, connections: Sized) -> int:
        """Return how many more there may be than these; below 0 if there are too many."""
        return self.limit - len(connections) - len(self.handshakes)

    def make_room(self) -> bool:
        """Close the connection that has waited longest, and return whether there is one.

        Slow TLS handshakes come first, then connections that have had no request yet: the others
        belong to clients that may send the next one at this moment. Other handshakes come last.
        """
        begun = next(iter(self.handshakes.values()), math.inf)
        slow = asyncio.get_running_loop().time() - begun > HANDSHAKE_SECONDS
        return (slow and self._end_handshake()) or self._end_idle() or self._end_handshake()

    def _end_handshake(self) -> bool:
        for handshake in self.handshakes:
            del self.handshakes[handshake]
            handshake.cancel()
            return True
        return False

    def _end_idle(self) -> bool:
        for connection in chain(self.unused, self.waiting):
            if connection.is_read:
                self.forget(connection)
                connection.transport.close()
                connection.transport.abort()  # TLS would wait for the client to close, too
                return True
        return False

    def forget(self, connection: "HttpProtocol") -> None:
        """Note that a connection no longer waits for a request."""
        self.unused.pop(connection, None)
        self.waiting.pop(connection, None)


class HttpProtocol(HttpToolsProtocol):
    """One connection; the other arguments are uvicorn's.

    Args:
        shared: By all connections of a server.
        handshake: With TLS, the task that ends as the connection is made.
    """

    _head_bytes: int | None = 0  # received of an unfinished head; None while a body comes
    _framing_bytes = 0  # received since the last part of a body: a chunk's head, the trailer
    _head_timer: asyncio.TimerHandle | None = None  # or for the rest of an unwanted body
    _running: RequestResponseCycle | None = None  # the request that is being answered
    _upgrade_offered = False
    _probe_timer: asyncio.TimerHandle | None = None
    _refusal: str | None = None  # of what came after requests that have no answer yet
    _unparsed = b""  # received
    _parse_handle: asyncio.Handle | None = None
    _body_bytes = 0  # at most so much of what comes is the body of the last request

    def __init__(
        self,
        *arguments: Any,
        shared: Connections | None = None,
        handshake: "asyncio.Task[None] | None" = None,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self._shared = shared or Connections()
        self._handshake = handshake
        # Here, because uvicorn's option would change a logger of the whole process.
        self.access_log = False
        self.parser = _Parser(self)

    def connection_made(self, transport: Any) -> None:
        """Write through `_Writer`, and limit the time for the first head."""
        self._writer = _Writer(transport, self.loop, self._shared.timeout)
        super().connection_made(cast("asyncio.Transport", self._writer))
        if self._handshake is not None:
            self._shared.handshakes.pop(self._handshake, None)
        if self._shared.free(self.connections) < 0 and not self._shared.make_room():
            self._warn("all %d connections have a request in progress", self._shared.limit)
            self.transport.write(FULL)
            self.transport.close()
            self._head_timer = self.loop.call_later(REFUSAL_SECONDS, self.transport.abort)
        else:
            self._limit_head_time()
            self._shared.unused[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Let the running request know, and end the timers."""
        self._shared.forget(self)
        self._unparsed = b""
        timers = (self._head_timer, self._probe_timer, self._parse_handle, self._writer.timer)
        for timer in timers:
            if timer is not None:
                timer.cancel()
        if self._running is not None:  # uvicorn marks only the newest of pipelined requests
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    @property
    def is_read(self) -> bool:
        """Whether the client has read its answers, or the system will send them to it."""
        return not self._writer.get_write_buffer_size()

    # Parsing. httptools would make all requests of what was received, such as ten thousand that
    # one client sends at once, before the event loop has its next turn.

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        self._unset_keepalive_if_required()
        self._unparsed = self._unparsed + data if self._unparsed else data
        if self._parse_handle is None and not self.pipeline:
            self._parse()
        else:
            self._writer.hold(True)

    def _parse(self) -> None:
        """Parse in pieces, until a request waits for another's answer or the time is over."""
        self._parse_handle = None
        rest = memoryview(self._unparsed)
        end = self.loop.time() + PARSE_SECONDS
        while rest and not self.pipeline:
            size = max(PIECE_BYTES, self._body_bytes)
            self._parse_piece(rest[:size])
            rest = rest[size:]
            if self._refusal is not None or self.transport.is_closing():
                rest = rest[:0]
            elif rest and self.loop.time() > end:
                self._parse_handle = self.loop.call_at(self._shared.turn(end), self._parse)
                break
        self._unparsed = bytes(rest)
        self._writer.hold(bool(rest))

    # Heads and trailers. httptools collects one of any length, uvicorn waits for it for ever, and
    # adds the trailer's fields to the headers.

    def _parse_piece(self, data: memoryview) -> None:
        if self._head_bytes is not None:
            self._head_bytes += len(data)
        else:
            self._framing_bytes += len(data)
        self._body_bytes = max(0, self._body_bytes - len(data))
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.send_400_response(f"The request is malformed: {error.__context__ or error}")
            return
        except httptools.HttpParserUpgrade:
            pass  # of CONNECT, which is refused at its head
        if self._head_bytes == 0 or self.transport.is_closing():
            return
        if self._head_bytes is None:  # within a body, whose time App limits until it has answered
            if self._framing_bytes > MAX_HEAD_BYTES:
                self.send_400_response("The trailer of the request is too long.")
            return
        if self._head_bytes > MAX_HEAD_BYTES:
            self.send_400_response("The head of the request is too long.")
        elif self.headers is not None and len(self.headers) > MAX_HEADERS:
            self.send_400_response(f"The request has more than {MAX_HEADERS} headers.")
        if self._head_timer is None:
            self._limit_head_time()

    def send_400_response(self, msg: str) -> None:
        """Refuse what came; the complete requests before it get their answers first."""
        msg = msg.encode("ascii", "replace").decode()[:MAX_REASON]
        self._warn("%s", msg)
        running = self._running
        if self._head_bytes is None and self.cycle is not None and self.cycle.response_started:
            self.transport.close()  # the request of this body has its answer
        elif running is None or (running is self.cycle and running.more_body):
            super().send_400_response(msg)
        else:
            self._refusal = msg

    def _warn(self, reason: str, *arguments: object) -> None:
        client = self.client[0] if self.client else "a client"
        logger.warning(f"refused %s: {reason}", client, *arguments, extra={"client": client})

    def on_message_begin(self) -> None:
        """Begin a head, which may be behind another request in what came."""
        self._head_bytes = self._head_bytes or 1
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a field to the headers, unless it is a trailer's, which nobody reads."""
        if self._head_bytes is not None:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """End the head's time, and pass over one that `_Parser` reads again without its offer."""
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        self._upgrade_offered = (
            self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        )
        if not self.url.startswith(b"/"):
            self._check_target()
        self._head_bytes = None
        if not self._upgrade_offered:
            super().on_headers_complete()
            self._shared.forget(self)
            length = next((value for name, value in self.headers if name == b"content-length"), 0)
            self._body_bytes = int(length)
            if not self.pipeline:
                self._running = self.cycle

    def _check_target(self) -> None:
        """Raise ValueError for a target without a path, such as CONNECT's."""
        try:
            path = httptools.parse_url(self.url).path
        except httptools.HttpParserInvalidURLError:
            path = None
        if not path:
            raise ValueError("its target has no path")

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._framing_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait for the next head."""
        self._head_bytes = self._body_bytes = self._framing_bytes = 0
        if self._head_timer is not None:  # the request was answered before its end
            self._head_timer.cancel()
            self._limit_head_time()
        if not self._upgrade_offered:
            super().on_message_complete()

    def without_upgrade(self) -> bytes:
        """Return the head that was just read, without its offer to upgrade."""
        version = self.parser.get_http_version().encode()
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + version]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def _limit_head_time(self) -> None:
        self._head_timer = self.loop.call_later(self._shared.head_seconds, self._end_slow_head)

    def _end_slow_head(self) -> None:
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._limit_head_time()  # an earlier request gets its answer first
            return
        if self._head_bytes:
            self.transport.write(TOO_SLOW)
        self.transport.close()

    # Half-closed connections. uvicorn would close them. A client that has closed its side only
    # waits for its answer, one that has closed its socket is gone; only the reaction to bytes
    # shows which. "100 Continue" is permitted before any answer in HTTP/1.1, and ignored.

    def eof_received(self) -> bool:  # type: ignore[override]
        """Return True, to keep the connection, while a complete request has no answer yet."""
        self._writer.flush()  # the event loop closes the transport if this returns False
        cycle = self.cycle
        encrypted = self.transport.get_extra_info("sslcontext")  # TLS closes both sides together
        if encrypted or cycle is None or cycle.more_body or cycle.response_complete:
            return False
        cycle.keep_alive = False
        if self._probe_timer is None:
            self._probe_timer = self.loop.call_later(PROBE_SECONDS, self._probe, 1)
        return True

    def _probe(self, number: int) -> None:
        running = self._running
        if running is None or self.transport.is_closing():
            return
        if running.scope["http_version"] == "1.1" and not running.response_started:
            self.transport.write(STATUS_LINE[100] + b"\r\n")
        if number < NUM_PROBES:
            delay = PROBE_SECONDS * 2**number
            self._probe_timer = self.loop.call_later(delay, self._probe, number + 1)

    def on_response_complete(self) -> None:
        """Go on to the next of pipelined requests, or wait for the rest of an unwanted body."""
        if self._head_bytes is None and not self.pipeline and not self.transport.is_closing():
            # To close at once would reset the connection, and the answer could be lost.
            self._head_timer = self.loop.call_later(DRAIN_SECONDS, self._end_slow_head)
        self._running = self.pipeline[-1][0] if self.pipeline else None
        if self._refusal is not None and (self._running is None or self._running.more_body):
            self.pipeline.clear()
            super().send_400_response(self._refusal)
        super().on_response_complete()
        if self._running is None:  # or for the client's end of TLS
            self._shared.waiting[self] = None
        if self._unparsed and self._parse_handle is None and not self.pipeline:
            self._parse_handle = self.loop.call_soon(self._parse)

    def shutdown(self) -> None:
        """Stop once requests that the system has received already are read and answered."""
        self.loop.call_later(FINAL_READ_SECONDS, super().shutdown)


class _Writer:
    """A transport that writes an answer at once, and drops a client that reads too slowly.

    uvicorn writes an answer's head and body apart, which costs two system calls and two packets
    (a fifth of its time for a short answer), and waits for ever for a client to read them, even
    after the end of the connection.
    """

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, timeout: float
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._timeout = timeout
        self._pieces: list[bytes] = []  # written in this turn of the event loop
        self._size = 0  # of the pieces
        self._written = 0  # bytes, ever
        self._held = False  # reading, until what was received is parsed
        self._paused = False  # reading, by uvicorn
        self.timer: asyncio.TimerHandle | None = None
        self.abort = transport.abort
        self.get_extra_info = transport.get_extra_info
        self.get_write_buffer_size = transport.get_write_buffer_size
        self.is_closing = transport.is_closing

    def pause_reading(self) -> None:
        """Receive no more."""
        self._paused = True
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Receive again, unless `hold` keeps it from that."""
        self._paused = False
        if not self._held:
            self._transport.resume_reading()

    def hold(self, held: bool) -> None:
        """Receive nothing as long as this is set."""
        if held == self._held:
            return
        self._held = held
        if held:
            self._transport.pause_reading()
        elif not self._paused:
            self._transport.resume_reading()

    def write(self, data: bytes) -> None:
        """Write at the end of the event loop's turn, or at once if it is much."""
        if not self._pieces:
            self._loop.call_soon(self.flush)
        self._pieces.append(data)
        self._size += len(data)
        if self._size > MAX_JOINED_BYTES:
            self.flush()

    def close(self) -> None:
        """Close the connection once all is written."""
        self.flush()
        if not self._transport.is_closing():  # with TLS, closing twice would leave it open
            self._transport.close()

    def flush(self) -> None:
        """Write what was written in this turn of the event loop."""
        if not self._pieces:
            return
        pieces = [b"".join(self._pieces)] if self._size <= MAX_JOINED_BYTES else self._pieces
        self._written += self._size
        self._pieces, self._size = [], 0
        if self._transport.is_closing():
            return
        if self.timer is not None and not self._transport.get_write_buffer_size():
            self.timer.cancel()  # the client has read all before this
            self.timer = None
        for piece in pieces:
            self._transport.write(piece)
        self._limit_time()

    def _limit_time(self) -> None:
        if self.timer is None and self._transport.get_write_buffer_size():
            self.timer = self._loop.call_later(self._timeout, self._check, self._read())

    def _read(self) -> int:
        return self._written - self._transport.get_write_buffer_size()

    def _check(self, before: int) -> None:
        self.timer = None
        if self._transport.get_write_buffer_size():
            if self._read() - before >= self._timeout * MIN_BYTES_PER_SECOND:
                self._limit_time()
            else:
                self._transport.abort()


class _Parser(httptools.HttpRequestParser):
    """httptools' parser, which ignores the offer of an upgrade, as RFC 9110 (7.8) asks.

    Java's HttpClient, Spring, Ktor and `curl --http2` offer "h2c" with every request; httptools
    then ends the message with its head, and uvicorn drops the body (uvicorn#2722).
    """

    def __init__(self, protocol: HttpProtocol) -> None:
        super().__init__(protocol)
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self._protocol = protocol

    def feed_data(self, data: Any) -> None:
        """Parse; a head with an offer is parsed again without it, and what follows as its body.

        Another parser does it: if the connection is to be closed, this one ignores what follows.
        """
        try:
            super().feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            if self.get_method() == b"CONNECT":
                raise
            head = self._protocol.without_upgrade()
            self._protocol.parser = _Parser(self._protocol)
            self._protocol.parser.feed_data(head + bytes(data)[offer.args[0] :])
