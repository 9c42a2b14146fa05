"""HTTP/2 on one connection: frames, header compression, flow control. It knows no gRPC.

https://www.rfc-editor.org/rfc/rfc9113 and https://www.rfc-editor.org/rfc/rfc7541. The library
`hpack` reads headers; those that we send need no table. A small request comes in one piece and
its answer goes in one: that, and little work in between, is what a small server has to offer.
"""

import asyncio
import contextlib
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import ClassVar

from .body import seconds_for
from .http2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    DEFAULT_FRAME,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    FRAME,
    GOAWAY,
    HAS_PRIORITY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    LARGEST,
    LENGTHS,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
    NUMBER,
    OF_CONNECTION,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTING,
    SETTINGS,
    WINDOW_UPDATE,
    Code,
    ProtocolError,
    frame,
    frame_head,
    number_frame,
    unpadded,
)
from .http2_headers import MAX_BLOCK_BYTES, MAX_HEAD_BYTES, NO_TABLE, Headers, HeadReader

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PREFACE_SECONDS = 20  # from a connection's beginning
MAX_FRAME_BYTES = 2**18  # that a client may send in one
MAX_STREAMS = 256  # of a connection, side by side
STREAM_WINDOW = 2**20  # bytes that a client may send ahead
CONNECTION_WINDOW = 2**24
NOT_HTTP2 = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n"
    b"This port speaks gRPC, over HTTP/2; the server speaks HTTP/1.1 on its other port.\n"
)


class Stream:
    """A request and its answer. Who answers overrides what is called when something comes."""

    __slots__ = (
        "_returned",
        "connection",
        "ended",
        "granted",
        "headers",
        "kept",
        "number",
        "open",
        "receivable",
        "trailer",
        "unsent",
    )

    def __init__(self, connection: "Http2Connection", number: int, headers: Headers) -> None:
        self.connection = connection
        self.number = number
        self.headers = headers
        self.open = True  # it is neither answered nor given up
        self.ended = False  # the client has said all
        self.receivable = STREAM_WINDOW  # bytes that the client may still send
        self.granted = 0  # bytes that we may send, beside what every stream may
        self.unsent: deque[memoryview] = deque()  # what we may not yet
        self.trailer: bytes | None = None  # what follows it
        self.kept = 0  # bytes of what came that wait
        self._returned = 0  # bytes that were taken, of which the client does not know yet

    def begun(self) -> None:
        """The headers are there."""

    def received(self, data: bytes) -> None:
        """A piece of the body came; the last one where `ended` says so. To be `taken`."""

    def drained(self) -> None:
        """All that waited for the client is sent."""

    def lost(self) -> None:
        """The client gave it up, or the connection is gone."""

    def keep(self, size: int) -> None:
        """Counts bytes that wait; less than 0: that wait no more."""
        self.kept += size
        self.connection.kept += size

    def taken(self, size: int) -> None:
        """Lets the client send so many bytes more."""
        self._returned += size
        if self._returned >= STREAM_WINDOW // 2 and not self.ended and self.open:
            update = number_frame(WINDOW_UPDATE, self.number, self._returned)
            self.connection.transport.write(update)
            self.receivable += self._returned
            self._returned = 0


class Http2Connection(asyncio.Protocol):
    """A client's connection.

    Args:
        make_stream: makes what answers a request, of the connection, a number and the headers.
        connections: those that there are; this one is among them while it lasts.
    """

    transport: asyncio.Transport
    client: str  # its address

    def __init__(
        self,
        make_stream: Callable[["Http2Connection", int, Headers], Stream],
        connections: set["Http2Connection"],
    ) -> None:
        self._make_stream = make_stream
        self._connections = connections
        self.streams: dict[int, Stream] = {}  # those that are open
        self.kept = 0  # bytes that wait in them
        self.initial_window = DEFAULT_WINDOW  # bytes that a new stream may send
        self._sendable = DEFAULT_WINDOW  # bytes that all of them may
        self._has_more_room = False  # for what waits
        self._received = 0  # bytes, of which the client does not know that they were taken
        self._max_frame = DEFAULT_FRAME  # bytes that the client takes in one
        self._newest = 0  # the highest number of a stream
        self._closing = False  # no stream is taken any more
        self._paused_at: float | None = None  # since when the client does not read
        self._rest = bytearray()  # of a frame that is not complete
        self._has_preface = False
        self._heads = HeadReader()
        self._head: tuple[int, int, bytearray] | None = None  # stream, flags, so far: incomplete
        self._own_head = NO_TABLE  # what stands before the next of ours

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        self.transport = transport
        with contextlib.suppress(OSError):  # who vanishes without a word should not stay for ever
            own = transport.get_extra_info("socket")
            own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.client = str((transport.get_extra_info("peername") or ("",))[0])
        self._connections.add(self)
        self._timer = asyncio.get_running_loop().call_later(PREFACE_SECONDS, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells everyone who works for it."""
        self._timer.cancel()
        self._connections.discard(self)
        for stream in list(self.streams.values()):
            self._forget(stream)
            stream.lost()

    def pause_writing(self) -> None:
        """The client does not read: neither do we, and what it should get waits."""
        self._paused_at = time.monotonic()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """It reads again."""
        self._paused_at = None
        if not self.transport.is_closing():
            self.transport.resume_reading()
            self._send_more()
            self.data_received(b"")  # what has come already

    def waits_in_vain(self) -> bool:
        """Whether the client reads more slowly than this server waits."""
        if self._paused_at is None:
            return False
        allowed = seconds_for(self.transport.get_write_buffer_size())
        return time.monotonic() > self._paused_at + allowed

    def data_received(self, data: bytes) -> None:
        """Takes apart what came."""
        if self._rest:
            self._rest += data
            length = int.from_bytes(self._rest[:3])
            if self._has_preface and length <= MAX_FRAME_BYTES and len(self._rest) < 9 + length:
                return
            data, self._rest = bytes(self._rest), bytearray()
        try:
            position, size = 0, len(data)
            if not self._has_preface:
                position = self._take_preface(data)
                if not self._has_preface:
                    return
            while position + 9 <= size and self._paused_at is None:
                high, low, kind, flags, number = FRAME.unpack_from(data, position)
                length = (high << 16) + low
                if length > MAX_FRAME_BYTES:
                    message = f"a frame has at most {MAX_FRAME_BYTES} bytes, not {length}"
                    raise ProtocolError(Code.FRAME_SIZE_ERROR, message)
                end = position + 9 + length
                if end > size:
                    break
                if kind <= CONTINUATION:  # others are of extensions
                    self._take(kind, flags, number & LARGEST, data[position + 9 : end])
                position = end
            if position < size:
                self._rest += data[position:]
            if self._has_more_room:
                self._send_more()
        except ProtocolError as error:
            self._go_away(self._newest, error.code, str(error))
            self.transport.close()

    def respond(
        self, stream: Stream, head: bytes = b"", data: bytes = b"", trailer: bytes | None = None
    ) -> None:
        """Sends an answer or a part of it, as fast as the client takes it.

        Args:
            stream: whose.
            head: packed headers; empty, if they have been sent.
            data: a piece of the body.
            trailer: packed headers that end the stream.
        """
        if not stream.open:
            return
        pieces: list[bytes | memoryview] = []
        if head:
            head, self._own_head = self._own_head + head, b""
            flags = END_HEADERS if data or trailer is not None else END_HEADERS | END_STREAM
            pieces.append(frame(HEADERS, flags, stream.number, head))
            if flags & END_STREAM:
                self._finish(stream, pieces)
        if data:
            stream.unsent.append(memoryview(data))
        stream.trailer = trailer
        self._send(stream, pieces)

    def reset(self, stream: Stream, code: Code) -> None:
        """Gives a stream up, with what of its answer is not sent."""
        if stream.open:
            self._forget(stream)
            self.transport.write(number_frame(RST_STREAM, stream.number, code))
            self._close_if_done()

    def announce_end(self) -> None:
        """Asks for no more streams; those that come are still answered."""
        if self._has_preface:
            self._go_away(LARGEST, Code.NO_ERROR)

    def end(self) -> None:
        """Takes no more streams, and closes when those that are open have their answers."""
        self._closing = True
        if self._has_preface:
            self._go_away(self._newest, Code.NO_ERROR)
        self._close_if_done()

    def _go_away(self, last: int, code: Code, message: str = "") -> None:
        payload = NUMBER.pack(last) + NUMBER.pack(code) + message.encode()
        self.transport.write(frame(GOAWAY, 0, 0, payload))

    def _close_if_done(self) -> None:
        if self._closing and not self.streams:
            self.transport.close()

    def _send(self, stream: Stream, pieces: list[bytes | memoryview]) -> None:
        """Sends what a stream has, as far as it may."""
        while stream.unsent:
            data = stream.unsent[0]
            window = self.initial_window + stream.granted
            room = min(window, self._sendable, self._max_frame)
            if room <= 0 or self._paused_at is not None:
                break
            if room < len(data):
                stream.unsent[0], data = data[room:], data[:room]
            else:
                stream.unsent.popleft()
            stream.granted -= len(data)
            self._sendable -= len(data)
            pieces += (frame_head(len(data), DATA, 0, stream.number), data)
        if not stream.unsent and stream.trailer is not None and stream.open:
            flags = END_HEADERS | END_STREAM
            pieces.append(frame(HEADERS, flags, stream.number, stream.trailer))
            self._finish(stream, pieces)
        self.transport.write(b"".join(pieces))
        self._close_if_done()

    def _finish(self, stream: Stream, pieces: list[bytes | memoryview]) -> None:
        """The stream is answered; a client that still sends need not."""
        if not stream.ended:
            pieces.append(number_frame(RST_STREAM, stream.number, Code.NO_ERROR))
        self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        stream.open = False
        stream.keep(-stream.kept)
        self.streams.pop(stream.number, None)

    def _send_more(self) -> None:
        """There is more room: sends what waited for it."""
        self._has_more_room = False
        for stream in list(self.streams.values()):
            if self._paused_at is not None:
                break
            if stream.unsent and self._sendable > 0 and self.initial_window + stream.granted > 0:
                self._send(stream, [])
                if not stream.unsent:
                    stream.drained()

    def _take_preface(self, data: bytes) -> int:
        """Returns where frames begin, once it has come."""
        if len(data) < len(PREFACE) and PREFACE.startswith(data):
            self._rest += data
            return 0
        if not data.startswith(PREFACE):
            self.transport.write(NOT_HTTP2)
            self.transport.close()
            return 0
        self._timer.cancel()
        self._has_preface = True
        settings = {
            MAX_CONCURRENT_STREAMS: MAX_STREAMS,
            INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            MAX_FRAME_SIZE: MAX_FRAME_BYTES,
            MAX_HEADER_LIST_SIZE: MAX_HEAD_BYTES,
        }
        payload = b"".join(SETTING.pack(*each) for each in settings.items())
        update = number_frame(WINDOW_UPDATE, 0, CONNECTION_WINDOW - DEFAULT_WINDOW)
        self.transport.write(frame(SETTINGS, 0, 0, payload) + update)
        return len(PREFACE)

    def _take(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if (self._head is None) == (kind == CONTINUATION):
            raise ProtocolError(Code.PROTOCOL_ERROR, "headers continue until they are complete")
        if LENGTHS.get(kind, len(payload)) != len(payload):
            raise ProtocolError(Code.FRAME_SIZE_ERROR, f"{len(payload)} bytes in a frame of {kind}")
        if kind != WINDOW_UPDATE and (number == 0) != (kind in OF_CONNECTION):
            raise ProtocolError(Code.PROTOCOL_ERROR, f"a frame of {kind} for stream {number}")
        if number > self._newest and kind not in (HEADERS, PRIORITY, CONTINUATION):
            raise ProtocolError(Code.PROTOCOL_ERROR, f"stream {number} has not begun")
        self._takers[kind](self, flags, number, payload)

    def _take_data(self, flags: int, number: int, payload: bytes) -> None:
        self._received += len(payload)
        if self._received >= CONNECTION_WINDOW // 2:
            self.transport.write(number_frame(WINDOW_UPDATE, 0, self._received))
            self._received = 0
        stream = self.streams.get(number)
        if stream is None:  # it was answered before the client had said all
            return
        if stream.ended:
            raise ProtocolError(Code.STREAM_CLOSED, f"stream {number} had ended")
        stream.receivable -= len(payload)
        if stream.receivable < 0:
            raise ProtocolError(Code.FLOW_CONTROL_ERROR, f"more than the window of {number}")
        data = unpadded(flags, payload)
        if len(data) < len(payload):
            stream.taken(len(payload) - len(data))
        stream.ended = bool(flags & END_STREAM)
        stream.received(data)

    def _take_headers(self, flags: int, number: int, payload: bytes) -> None:
        block = unpadded(flags, payload)
        if flags & HAS_PRIORITY:
            if len(block) < LENGTHS[PRIORITY]:
                raise ProtocolError(Code.FRAME_SIZE_ERROR, "a priority of less than five bytes")
            block = block[LENGTHS[PRIORITY] :]
        if flags & END_HEADERS:
            self._take_head(flags, number, block)
        else:
            self._head = number, flags, bytearray(block)

    def _take_continuation(self, flags: int, number: int, payload: bytes) -> None:
        assert self._head is not None
        begun, first_flags, block = self._head
        block += payload
        if number != begun:
            raise ProtocolError(Code.PROTOCOL_ERROR, "headers of another stream within headers")
        if len(block) > MAX_BLOCK_BYTES:
            raise ProtocolError(Code.ENHANCE_YOUR_CALM, "the headers are too long")
        if flags & END_HEADERS:
            self._head = None
            self._take_head(first_flags, number, bytes(block))

    def _take_head(self, flags: int, number: int, block: bytes) -> None:
        headers = self._heads.read(block)
        stream = self.streams.get(number)
        if stream is not None and isinstance(headers, Code):
            self.reset(stream, headers)
            stream.lost()
            return
        if stream is not None:  # trailers
            if stream.ended or not flags & END_STREAM:
                raise ProtocolError(Code.PROTOCOL_ERROR, f"stream {number} has begun already")
            stream.ended = True
            stream.received(b"")
            return
        if number % 2 == 0:
            raise ProtocolError(Code.PROTOCOL_ERROR, f"{number} is no stream of a client")
        if number <= self._newest:  # trailers of one that was answered before
            return
        self._newest = number
        if self._closing or len(self.streams) >= MAX_STREAMS:
            headers = Code.REFUSED_STREAM
        if isinstance(headers, Code):
            self.transport.write(number_frame(RST_STREAM, number, headers))
            return
        stream = self.streams[number] = self._make_stream(self, number, headers)
        stream.ended = bool(flags & END_STREAM)
        stream.begun()
        if stream.ended and stream.open:
            stream.received(b"")

    def _take_priority(self, flags: int, number: int, payload: bytes) -> None:
        """All are answered as they become ready."""

    def _take_reset(self, flags: int, number: int, payload: bytes) -> None:
        stream = self.streams.get(number)
        if stream is not None:
            self._forget(stream)
            stream.lost()
            self._close_if_done()

    def _take_push_promise(self, flags: int, number: int, payload: bytes) -> None:
        raise ProtocolError(Code.PROTOCOL_ERROR, "a client pushes nothing")

    def _take_ping(self, flags: int, number: int, payload: bytes) -> None:
        if not flags & ACK:
            self.transport.write(frame(PING, ACK, 0, payload))

    def _take_go_away(self, flags: int, number: int, payload: bytes) -> None:
        self._closing = True
        self._close_if_done()

    def _take_settings(self, flags: int, number: int, payload: bytes) -> None:
        if flags & ACK:
            return
        if len(payload) % SETTING.size:
            raise ProtocolError(Code.FRAME_SIZE_ERROR, "settings have six bytes each")
        for setting, value in SETTING.iter_unpack(payload):
            if setting == INITIAL_WINDOW_SIZE:
                if value > LARGEST:
                    raise ProtocolError(Code.FLOW_CONTROL_ERROR, "a window is too large")
                self.initial_window = value
            elif setting == MAX_FRAME_SIZE:
                if not DEFAULT_FRAME <= value < 2**24:
                    raise ProtocolError(Code.PROTOCOL_ERROR, f"a frame's size of {value}")
                self._max_frame = value
        self.transport.write(frame(SETTINGS, ACK, 0, b""))
        self._has_more_room = True

    def _take_window_update(self, flags: int, number: int, payload: bytes) -> None:
        more = NUMBER.unpack(payload)[0] & LARGEST
        if more == 0:
            raise ProtocolError(Code.PROTOCOL_ERROR, "a window grows by at least one byte")
        if number == 0:
            self._sendable += more
            window = self._sendable
        else:
            stream = self.streams.get(number)
            if stream is None:
                return
            stream.granted += more
            window = self.initial_window + stream.granted
        if window > LARGEST:
            raise ProtocolError(Code.FLOW_CONTROL_ERROR, "a window is too large")
        self._has_more_room = True

    _takers: ClassVar = {
        DATA: _take_data,
        HEADERS: _take_headers,
        PRIORITY: _take_priority,
        RST_STREAM: _take_reset,
        SETTINGS: _take_settings,
        PUSH_PROMISE: _take_push_promise,
        PING: _take_ping,
        GOAWAY: _take_go_away,
        WINDOW_UPDATE: _take_window_update,
        CONTINUATION: _take_continuation,
    }
