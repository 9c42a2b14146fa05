"""uvicorn's HTTP protocol on httptools, with limits for which uvicorn has no public interface.

The overridden methods, and the attributes of connections and requests (`RequestResponseCycle`) that
are read here, are the same in all tested versions of uvicorn, which pyproject.toml states.
"""

import asyncio
import logging
import math
import re
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

_MAX_HEAD_BYTES = 64 * 2**10  # maximum size of a head, and of chunk extensions and trailers
_MAX_HEADERS = 256
# Maximum seconds for the head of a request, counted from its first byte or from the start of the
# connection, and for a TLS handshake.
HEAD_SECONDS = 20
_PIECE_BYTES = 2**10  # maximum number of bytes that are parsed in one call, except bytes of a body
_PARSE_SECONDS = 0.001  # seconds for which the data of one connection is parsed without a pause
_TURN_SECONDS = 0.003  # seconds that other connections get after that
_MAX_JOINED_BYTES = 64 * 2**10  # joining more bytes costs more than another system call
# Seconds to wait, when the server stops, for requests that are on their way to idle connections.
_FINAL_READ_SECONDS = 0.05
# Seconds before the first probe of a half-closed connection; each later probe doubles the delay.
PROBE_SECONDS = 0.125
_NUM_PROBES = 4  # Go's client accepts at most five interim responses
# Seconds after which a handshake can be ended to make room for another connection.
_HANDSHAKE_SECONDS = 1
_REJECTION_SECONDS = 1  # seconds for a client to end TLS after its connection was rejected
_MAX_REASON = 200  # maximum number of characters of the reason in an error response
# A host, which may be empty, and a port: RFC 9110, 7.2, and RFC 3986, 3.2.2.
_HOST = re.compile(rb"(\[[0-9A-Za-z:.%]+\]|([\w.~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(:[0-9]*)?[ \t]*")
# The first bytes of other protocols, which clients send to a wrong port or with a wrong scheme.
_OTHER_PROTOCOLS = {
    b"PRI * HTTP/2": "This port serves HTTP/1.1, and not HTTP/2; gRPC has another port.",
    b"\x16\x03": "This port serves HTTP without TLS; https needs --tls-certificate.",
}
_CLOSE = b"content-length: 0\r\nconnection: close\r\n\r\n"
_TOO_SLOW = STATUS_LINE[408] + _CLOSE
_FULL = STATUS_LINE[503] + b"retry-after: 1\r\n" + _CLOSE


@dataclass
class Connections:
    """The state that all connections of a server share.

    Args:
        timeout: seconds after which the connection of a client that sends or reads too slowly ends.
        limit: maximum number of open connections, including those in their TLS handshake.
    """

    timeout: float = 75.0
    limit: int = 4096
    # The start (`loop.time()`) of each TLS handshake in progress, the earliest first.
    handshakes: "dict[asyncio.Task[None], float]" = field(default_factory=dict)
    # Connections that wait for their first request (`unused`), and connections that wait for a
    # further one (`waiting`). In both dicts, the connection that has waited longest is first.
    unused: "dict[HttpProtocol, None]" = field(default_factory=dict)
    waiting: "dict[HttpProtocol, None]" = field(default_factory=dict)
    next_turn: float = 0.0  # `loop.time()` from which the next connection may continue parsing

    def turn(self, now: float) -> float:
        """Return the time at which a connection that has used up its time may continue parsing."""
        self.next_turn = max(self.next_turn, now) + _TURN_SECONDS
        return self.next_turn

    @property
    def head_seconds(self) -> float:
        """Return the maximum number of seconds for a head, or for a TLS handshake."""
        return min(HEAD_SECONDS, self.timeout)

    def num_free(self, connections: Sized) -> int:
        """Return how many more connections can be opened; negative if there are too many."""
        return self.limit - len(connections) - len(self.handshakes)

    def make_room(self) -> bool:
        """Close the connection that has waited longest; return False if no connection is waiting.

        A slow TLS handshake is ended if there is one. Otherwise, the order is: a connection that
        waits for its first request, one that waits for a further request, any other TLS handshake.
        """
        first = next(iter(self.handshakes.values()), math.inf)
        is_slow = asyncio.get_running_loop().time() - first > _HANDSHAKE_SECONDS
        return (is_slow and self._end_handshake()) or self._end_idle() or self._end_handshake()

    def _end_handshake(self) -> bool:
        for handshake in self.handshakes:
            del self.handshakes[handshake]
            handshake.cancel()
            return True
        return False

    def _end_idle(self) -> bool:
        for connection in chain(self.unused, self.waiting):
            if connection.is_flushed:
                self.forget(connection)
                connection.transport.close()
                connection.transport.abort()  # TLS would wait for the client's close_notify
                return True
        return False

    def forget(self, connection: "HttpProtocol") -> None:
        """Remove a connection that no longer waits for a request."""
        self.unused.pop(connection, None)
        self.waiting.pop(connection, None)


class HttpProtocol(HttpToolsProtocol):
    """A connection; the arguments that are not described here are uvicorn's.

    Args:
        shared: the state that all connections of a server share.
        handshake: with TLS, the task of the handshake, which ends when the connection is made.
    """

    _head_bytes: int | None = 0  # received bytes of an incomplete head; None during a body
    # Received bytes since the last content of a body, such as chunk extensions and trailers.
    _framing_bytes = 0
    # Limits the time of heads and of rejected bodies.
    _head_timer: asyncio.TimerHandle | None = None
    _running: RequestResponseCycle | None = None  # the request that is being answered
    _upgrade_offered = False
    _probe_timer: asyncio.TimerHandle | None = None
    # Error in the received data; it is sent once the complete requests before that data have been
    # answered.
    _error: str | None = None
    _unparsed = b""  # received data
    _parse_handle: asyncio.Handle | None = None
    # Maximum number of bytes that are still missing from the body of the last request.
    _body_bytes = 0

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
        # uvicorn's option to disable the access log would change a logger of the whole process.
        self.access_log = False
        self.parser = _Parser(self)

    def connection_made(self, transport: Any) -> None:
        """Write through a `_Writer`, and limit the time for the first head."""
        self._writer = _Writer(transport, self.loop, self._shared.timeout)
        super().connection_made(cast("asyncio.Transport", self._writer))
        if self._handshake is not None:
            self._shared.handshakes.pop(self._handshake, None)
        if self._shared.num_free(self.connections) < 0 and not self._shared.make_room():
            self._warn("all %d connections have a request in progress", self._shared.limit)
            self.transport.write(_FULL)
            self.transport.close()
            self._head_timer = self.loop.call_later(_REJECTION_SECONDS, self.transport.abort)
        else:
            self._limit_head_time()
            self._shared.unused[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Notify the running request, and cancel the timers."""
        self._shared.forget(self)
        self._unparsed = b""
        timers = (self._head_timer, self._probe_timer, self._parse_handle, self._writer.timer)
        for timer in timers:
            if timer is not None:
                timer.cancel()
        # uvicorn notifies only the newest of several pipelined requests.
        if self._running is not None:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    @property
    def is_flushed(self) -> bool:
        """Return whether all responses were passed to the operating system."""
        return not self._writer.get_write_buffer_size()

    # Parsing. A client can send ten thousand requests at once, which httptools would parse without
    # a pause for other connections.

    def data_received(self, data: bytes) -> None:
        """Parse the received data, or parse it later if requests wait for earlier responses."""
        self._unset_keepalive_if_required()
        self._unparsed = self._unparsed + data if self._unparsed else data
        if self._parse_handle is None and not self.pipeline:
            self._parse()
        else:
            self._writer.defer_reading(True)

    def _parse(self) -> None:
        """Parse in pieces, until a request waits for an earlier response or the time is used up."""
        self._parse_handle = None
        rest = memoryview(self._unparsed)
        end = self.loop.time() + _PARSE_SECONDS
        while rest and not self.pipeline:
            size = max(_PIECE_BYTES, self._body_bytes)
            self._parse_piece(rest[:size])
            rest = rest[size:]
            if self._error is not None or self.transport.is_closing():
                rest = rest[:0]
            elif rest and self.loop.time() > end:
                self._parse_handle = self.loop.call_at(self._shared.turn(end), self._parse)
                break
        self._unparsed = bytes(rest)
        self._writer.defer_reading(bool(rest))

    # Heads and trailers. httptools does not limit their length. uvicorn waits for them forever, and
    # adds the fields of trailers to the headers.

    def _parse_piece(self, data: memoryview) -> None:
        if self._head_bytes is not None:
            self._head_bytes += len(data)
        else:
            self._framing_bytes += len(data)
        self._body_bytes = max(0, self._body_bytes - len(data))
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            reason = f"The request is malformed: {error.__context__ or error}"
            for first, other in _OTHER_PROTOCOLS.items():
                reason = other if bytes(data[: len(first)]) == first else reason
            self.send_400_response(reason)
            return
        except httptools.HttpParserUpgrade:
            pass  # raised for CONNECT, which was rejected when its head was parsed
        if self._head_bytes == 0 or self.transport.is_closing():
            return
        if self._head_bytes is None:  # the data is part of a body, whose time `App` limits
            if self._framing_bytes > _MAX_HEAD_BYTES:
                self.send_400_response("The trailer of the request is too long.")
            return
        if self._head_bytes > _MAX_HEAD_BYTES:
            self.send_400_response("The head of the request is too long.")
        elif self.headers is not None and len(self.headers) > _MAX_HEADERS:
            self.send_400_response(f"The request has more than {_MAX_HEADERS} headers.")
        if self._head_timer is None:
            self._limit_head_time()

    def send_400_response(self, msg: str) -> None:
        """Reject the received data, once the complete requests before it have been answered."""
        msg = msg.encode("ascii", "replace").decode()[:_MAX_REASON]
        self._warn("%s", msg)
        running = self._running
        if self._head_bytes is None and self.cycle is not None and self.cycle.response_started:
            self.transport.close()  # the response to this request has begun
        elif running is None or (running is self.cycle and running.more_body):
            super().send_400_response(msg)
        else:
            self._error = msg

    def _warn(self, reason: str, *arguments: object) -> None:
        client = self.client[0] if self.client else "a client"
        logger.warning(f"refused %s: {reason}", client, *arguments, extra={"client": client})

    def on_message_begin(self) -> None:
        """Begin a head, which may follow another request in the received data."""
        self._head_bytes = self._head_bytes or 1
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a field to the headers; ignore fields of trailers."""
        if self._head_bytes is not None:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Cancel the head's timer; ignore a head that `_Parser` parses again without upgrade."""
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        self._upgrade_offered = (
            self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        )
        if not self.url.startswith(b"/"):
            self._check_target()
        self._check_host()
        if self.parser.get_http_version() == "1.0":  # has no interim responses (RFC 9110, 10.1.1)
            self.expect_100_continue = False
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

    def _check_host(self) -> None:
        """Raise ValueError unless the header Host is as RFC 9112 (3.2) requires."""
        hosts = [value for name, value in self.headers if name == b"host"]
        if not hosts:
            if self.parser.get_http_version() == "1.1":
                raise ValueError("it has no header Host")
        elif len(hosts) > 1:
            raise ValueError("it has more than one header Host")
        elif not _HOST.fullmatch(hosts[0]):
            raise ValueError("its header Host is not a host with an optional port")

    def on_body(self, body: bytes) -> None:
        """Receive a part of a body."""
        self._framing_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Begin to wait for the next head."""
        self._head_bytes = self._body_bytes = self._framing_bytes = 0
        if self._head_timer is not None:  # the response was sent before the end of the request
            self._head_timer.cancel()
            self._limit_head_time()
        if not self._upgrade_offered:
            super().on_message_complete()

    def without_upgrade(self) -> bytes:
        """Return the current head without its header Upgrade."""
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
            # An earlier request must be answered first.
            self._limit_head_time()
            return
        if self._head_bytes:
            self.transport.write(_TOO_SLOW)
        self.transport.close()

    # Half-closed connections, which uvicorn would close. A client that has only shut down its
    # sending side still waits for its response, and a client that has closed its socket does not.
    # The server can only distinguish them by sending bytes. It sends "100 Continue", which HTTP/1.1
    # permits before any response, and which clients ignore.

    def eof_received(self) -> bool:  # type: ignore[override]
        """Return True, to keep the connection, while a complete request has no response yet."""
        self._writer.flush()  # because the event loop closes the transport if the result is False
        cycle = self.cycle
        encrypted = self.transport.get_extra_info(
            "sslcontext"
        )  # TLS has no half-closed connections
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
        if number < _NUM_PROBES:
            delay = PROBE_SECONDS * 2**number
            self._probe_timer = self.loop.call_later(delay, self._probe, number + 1)

    def on_response_complete(self) -> None:
        """Continue with the next pipelined request, or wait for the rest of a rejected body."""
        if self._head_bytes is None and not self.pipeline and not self.transport.is_closing():
            # If the connection were closed now, it would be reset, and the client could lose the
            # response.
            self._head_timer = self.loop.call_later(DRAIN_SECONDS, self._end_slow_head)
        self._running = self.pipeline[-1][0] if self.pipeline else None
        if self._error is not None and (self._running is None or self._running.more_body):
            self.pipeline.clear()
            super().send_400_response(self._error)
        super().on_response_complete()
        # The connection waits for a request, or for the client's close_notify.
        if self._running is None:
            self._shared.waiting[self] = None
        if self._unparsed and self._parse_handle is None and not self.pipeline:
            self._parse_handle = self.loop.call_soon(self._parse)

    def shutdown(self) -> None:
        """Stop after answering the requests that the operating system has already received."""
        self.loop.call_later(_FINAL_READ_SECONDS, super().shutdown)


class _Writer:
    """A transport that joins the writes of a response, and disconnects clients that read slowly.

    uvicorn writes the head and the body of a response in two system calls and two packets, which
    take a fifth of uvicorn's time if the response is short. uvicorn also waits forever for clients
    to read a response, even after it has closed the connection.
    """

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, timeout: float
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._timeout = timeout
        self._pieces: list[bytes] = []  # data written in this iteration of the event loop
        self._size = 0  # bytes of the pieces
        self._written = 0  # bytes since the start of the connection
        self._deferred = False  # whether reading waits until the received data is parsed
        self._paused = False  # whether uvicorn has paused reading
        self.timer: asyncio.TimerHandle | None = None
        self.abort = transport.abort
        self.get_extra_info = transport.get_extra_info
        self.get_write_buffer_size = transport.get_write_buffer_size
        self.is_closing = transport.is_closing

    def pause_reading(self) -> None:
        """Stop receiving."""
        self._paused = True
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Continue receiving, unless reading is deferred."""
        self._paused = False
        if not self._deferred:
            self._transport.resume_reading()

    def defer_reading(self, deferred: bool) -> None:
        """Stop receiving if `deferred`; otherwise continue, unless uvicorn has paused reading."""
        if deferred == self._deferred:
            return
        self._deferred = deferred
        if deferred:
            self._transport.pause_reading()
        elif not self._paused:
            self._transport.resume_reading()

    def write(self, data: bytes) -> None:
        """Write data at the end of this iteration of the event loop, or now if it is large."""
        if not self._pieces:
            self._loop.call_soon(self.flush)
        self._pieces.append(data)
        self._size += len(data)
        if self._size > _MAX_JOINED_BYTES:
            self.flush()

    def close(self) -> None:
        """Close the connection after writing all data."""
        self.flush()
        if (
            not self._transport.is_closing()
        ):  # with TLS, a second close would leave the connection open
            self._transport.close()

    def flush(self) -> None:
        """Pass the data of this iteration of the event loop to the transport."""
        if not self._pieces:
            return
        pieces = [b"".join(self._pieces)] if self._size <= _MAX_JOINED_BYTES else self._pieces
        self._written += self._size
        self._pieces, self._size = [], 0
        if self._transport.is_closing():
            return
        if self.timer is not None and not self._transport.get_write_buffer_size():
            self.timer.cancel()  # all earlier data was sent
            self.timer = None
        for piece in pieces:
            self._transport.write(piece)
        self._limit_time()

    def _limit_time(self) -> None:
        if self.timer is None and self._transport.get_write_buffer_size():
            self.timer = self._loop.call_later(self._timeout, self._check, self._sent())

    def _sent(self) -> int:
        return self._written - self._transport.get_write_buffer_size()

    def _check(self, before: int) -> None:
        self.timer = None
        if self._transport.get_write_buffer_size():
            if self._sent() - before >= self._timeout * MIN_BYTES_PER_SECOND:
                self._limit_time()
            else:
                self._transport.abort()


class _Parser(httptools.HttpRequestParser):
    """httptools' parser, except that it ignores the header Upgrade, as RFC 9110 (7.8) permits.

    Java's HttpClient, Spring, Ktor and `curl --http2` send `Upgrade: h2c` with each request.
    httptools then ends the message after its head, and uvicorn drops the body (uvicorn#2722).
    """

    def __init__(self, protocol: HttpProtocol) -> None:
        super().__init__(protocol)
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as in uvicorn
        self._protocol = protocol

    def feed_data(self, data: Any) -> None:
        """Parse data; if a head has the header Upgrade, parse it again without that header.

        The head is parsed again by a new parser, because the old one would ignore the body if the
        connection is to be closed.
        """
        try:
            super().feed_data(data)
            return
        except httptools.HttpParserUpgrade as upgrade:
            if self.get_method() == b"CONNECT":
                raise
            (end,) = upgrade.args  # the end of the head
        # This is outside the block above, so that HttpParserUpgrade does not become the context of
        # a later exception.
        head = self._protocol.without_upgrade()
        self._protocol.parser = _Parser(self._protocol)
        self._protocol.parser.feed_data(head + bytes(data)[end:])
