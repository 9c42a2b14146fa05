"""HTTP/2 on one connection: frames, header compression, flow control. It knows no gRPC.

https://www.rfc-editor.org/rfc/rfc9113 and https://www.rfc-editor.org/rfc/rfc7541. The library
`hpack` reads headers; those that we send need no table. A small request comes in one piece and
its answer goes in one: that, and little work in between, is what a small server has to offer.
"""

import asyncio
import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PREFACE_SECONDS = 20  # from a connection's beginning
MAX_FRAME_BYTES = 2**18  # that a client may send in one
MAX_HEAD_BYTES = 2**14  # of a request's headers, packed or not
MAX_STREAMS = 256  # of a connection, side by side
STREAM_WINDOW = 2**20  # bytes that a client may send ahead
CONNECTION_WINDOW = 2**24
KEPT_HEADS = 64  # of a connection
NOT_HTTP2 = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n"
    b"This port speaks gRPC, over HTTP/2; the server speaks HTTP/1.1 on its other port.\n"
)

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY = range(8)
WINDOW_UPDATE, CONTINUATION = 8, 9
LENGTHS = {PRIORITY: 5, RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4}  # of frames, in bytes
OF_CONNECTION = {SETTINGS, PING, GOAWAY}  # frames without a stream; WINDOW_UPDATE may have one
ACK = END_STREAM = 0x1  # flags
END_HEADERS, PADDED, HAS_PRIORITY = 0x4, 0x8, 0x20
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = range(3, 7)
LARGEST = 2**31 - 1  # window, or number of a stream
DEFAULT_WINDOW = 2**16 - 1
DEFAULT_FRAME = 2**14
NO_TABLE = b"\x20"  # before our first header: the table that we might fill has no room
# Headers that are of a connection have no place in HTTP/2.
OF_HTTP1 = {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}

_FRAME = struct.Struct(">BHBBL")  # length (24 bits, in two), type, flags, stream
_SETTING = struct.Struct(">HL")
_NUMBER = struct.Struct(">L")

Headers = Mapping[bytes, bytes]


class Code(IntEnum):
    """Why a stream or a connection ends (RFC 9113, section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class ProtocolError(Exception):
    """The client broke the protocol: the connection ends."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


class Stream:
    """A request and its answer. Who answers overrides what is called when something comes."""

    __slots__ = (
        "_returned",
        "connection",
        "ended",
        "headers",
        "number",
        "open",
        "receivable",
        "sendable",
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
        self.sendable = connection.initial_window  # bytes that we may
        self.unsent: deque[memoryview] = deque()  # what we may not yet
        self.trailer: bytes | None = None  # what follows it
        self._returned = 0  # bytes that were taken, of which the client does not know yet

    def begun(self) -> None:
        """The headers are there."""

    def received(self, data: bytes) -> None:
        """A piece of the body came; the last one where `ended` says so. To be `taken`."""

    def drained(self) -> None:
        """All that waited for the client is sent."""

    def lost(self) -> None:
        """The client gave it up, or the connection is gone."""

    def taken(self, size: int) -> None:
        """Lets the client send so many bytes more."""
        self._returned += size
        if self._returned >= STREAM_WINDOW // 2 and not self.ended and self.open:
            update = _NUMBER.pack(self._returned)
            self.connection.transport.write(frame(WINDOW_UPDATE, 0, self.number, update))
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
        self.initial_window = DEFAULT_WINDOW  # bytes that a new stream may send
        self._sendable = DEFAULT_WINDOW  # bytes that all of them may
        self._received = 0  # bytes, of which the client does not know that they were taken
        self._max_frame = DEFAULT_FRAME  # bytes that the client takes in one
        self._newest = 0  # the highest number of a stream
        self._closing = False  # no stream is taken any more
        self._rest = bytearray()  # of a frame that is not complete
        self._has_preface = False
        self._heads = HeadReader()
        self._head: tuple[int, int, bytearray] | None = None  # stream, flags, so far: incomplete
        self._own_head = NO_TABLE  # what stands before the next of ours

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        self.transport = transport
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
        """The client does not read: neither do we."""
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """It reads again."""
        self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Takes apart what came."""
        if self._rest:
            self._rest += data
            if self._has_preface and len(self._rest) < 9 + int.from_bytes(self._rest[:3]):
                return
            data, self._rest = bytes(self._rest), bytearray()
        try:
            position, size = 0, len(data)
            if not self._has_preface:
                position = self._take_preface(data)
                if not self._has_preface:
                    return
            while position + 9 <= size:
                high, low, kind, flags, number = _FRAME.unpack_from(data, position)
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
        """Gives a stream up."""
        if stream.open:
            self._forget(stream)
            self.transport.write(frame(RST_STREAM, 0, stream.number, _NUMBER.pack(code)))

    def announce_end(self) -> None:
        """Asks for no more streams; those that come are still answered."""
        self._go_away(LARGEST, Code.NO_ERROR)

    def end(self) -> None:
        """Takes no more streams, and closes when those that are open have their answers."""
        self._closing = True
        self._go_away(self._newest, Code.NO_ERROR)
        self._close_if_done()

    def _go_away(self, last: int, code: Code, message: str = "") -> None:
        payload = _NUMBER.pack(last) + _NUMBER.pack(code) + message.encode()
        self.transport.write(frame(GOAWAY, 0, 0, payload))

    def _close_if_done(self) -> None:
        if self._closing and not self.streams:
            self.transport.close()

    def _send(self, stream: Stream, pieces: list[bytes | memoryview]) -> None:
        """Sends what a stream has, as far as it may."""
        waited = False
        while stream.unsent:
            data = stream.unsent[0]
            room = min(stream.sendable, self._sendable, self._max_frame)
            if room <= 0:
                waited = True
                break
            if room < len(data):
                stream.unsent[0], data = data[room:], data[:room]
            else:
                stream.unsent.popleft()
            stream.sendable -= len(data)
            self._sendable -= len(data)
            pieces += (_frame_head(len(data), DATA, 0, stream.number), data)
        if not waited and stream.trailer is not None and stream.open:
            flags = END_HEADERS | END_STREAM
            pieces.append(frame(HEADERS, flags, stream.number, stream.trailer))
            self._finish(stream, pieces)
        self.transport.write(b"".join(pieces))
        self._close_if_done()

    def _finish(self, stream: Stream, pieces: list[bytes | memoryview]) -> None:
        """The stream is answered; a client that still sends need not."""
        if not stream.ended:
            pieces.append(frame(RST_STREAM, 0, stream.number, _NUMBER.pack(Code.NO_ERROR)))
        self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        stream.open = False
        self.streams.pop(stream.number, None)

    def _send_more(self, streams: Sequence[Stream]) -> None:
        """There is more room: sends what waited for it."""
        for stream in streams:
            if stream.unsent:
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
        payload = b"".join(_SETTING.pack(*each) for each in settings.items())
        update = _NUMBER.pack(CONNECTION_WINDOW - DEFAULT_WINDOW)
        self.transport.write(frame(SETTINGS, 0, 0, payload) + frame(WINDOW_UPDATE, 0, 0, update))
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
        match kind:
            case 0:
                self._take_data(flags, number, payload)
            case 1:
                self._take_headers(flags, number, payload)
            case 3:
                if (stream := self.streams.get(number)) is not None:
                    self._forget(stream)
                    stream.lost()
                    self._close_if_done()
            case 4:
                self._take_settings(flags, payload)
            case 5:
                raise ProtocolError(Code.PROTOCOL_ERROR, "a client pushes nothing")
            case 6:
                if not flags & ACK:
                    self.transport.write(frame(PING, ACK, 0, payload))
            case 7:
                self._closing = True
                self._close_if_done()
            case 8:
                self._take_window_update(number, payload)
            case 9:
                self._take_continuation(flags, number, payload)

    def _take_data(self, flags: int, number: int, payload: bytes) -> None:
        self._received += len(payload)
        if self._received >= CONNECTION_WINDOW // 2:
            self.transport.write(frame(WINDOW_UPDATE, 0, 0, _NUMBER.pack(self._received)))
            self._received = 0
        stream = self.streams.get(number)
        if stream is None:  # it was answered before the client had said all
            return
        if stream.ended:
            raise ProtocolError(Code.STREAM_CLOSED, f"stream {number} had ended")
        stream.receivable -= len(payload)
        if stream.receivable < 0:
            raise ProtocolError(Code.FLOW_CONTROL_ERROR, f"more than the window of {number}")
        data = _unpadded(flags, payload)
        if len(data) < len(payload):
            stream.taken(len(payload) - len(data))
        stream.ended = bool(flags & END_STREAM)
        stream.received(data)

    def _take_headers(self, flags: int, number: int, payload: bytes) -> None:
        block = _unpadded(flags, payload)
        if flags & HAS_PRIORITY:
            block = block[5:]
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
        if len(block) > MAX_HEAD_BYTES:
            raise ProtocolError(Code.ENHANCE_YOUR_CALM, "the headers are too long")
        if flags & END_HEADERS:
            self._head = None
            self._take_head(first_flags, number, bytes(block))

    def _take_head(self, flags: int, number: int, block: bytes) -> None:
        headers = self._heads.read(block)
        stream = self.streams.get(number)
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
        if self._closing or len(self.streams) >= MAX_STREAMS or headers is None:
            code = Code.PROTOCOL_ERROR if headers is None else Code.REFUSED_STREAM
            self.transport.write(frame(RST_STREAM, 0, number, _NUMBER.pack(code)))
            return
        stream = self.streams[number] = self._make_stream(self, number, headers)
        stream.ended = bool(flags & END_STREAM)
        stream.begun()
        if stream.ended and stream.open:
            stream.received(b"")

    def _take_settings(self, flags: int, payload: bytes) -> None:
        if flags & ACK:
            return
        if len(payload) % _SETTING.size:
            raise ProtocolError(Code.FRAME_SIZE_ERROR, "settings have six bytes each")
        for setting, value in _SETTING.iter_unpack(payload):
            if setting == INITIAL_WINDOW_SIZE:
                more = value - self.initial_window
                self.initial_window = value
                for stream in self.streams.values():
                    stream.sendable += more
                if max([value, *(s.sendable for s in self.streams.values())]) > LARGEST:
                    raise ProtocolError(Code.FLOW_CONTROL_ERROR, "a window is too large")
            elif setting == MAX_FRAME_SIZE:
                if not DEFAULT_FRAME <= value < 2**24:
                    raise ProtocolError(Code.PROTOCOL_ERROR, f"a frame's size of {value}")
                self._max_frame = value
        self.transport.write(frame(SETTINGS, ACK, 0, b""))
        self._send_more(list(self.streams.values()))

    def _take_window_update(self, number: int, payload: bytes) -> None:
        more = _NUMBER.unpack(payload)[0] & LARGEST
        if more == 0:
            raise ProtocolError(Code.PROTOCOL_ERROR, "a window grows by at least one byte")
        if number == 0:
            self._sendable += more
            window = self._sendable
            streams = list(self.streams.values())
        else:
            stream = self.streams.get(number)
            if stream is None:
                return
            stream.sendable += more
            window = stream.sendable
            streams = [stream]
        if window > LARGEST:
            raise ProtocolError(Code.FLOW_CONTROL_ERROR, "a window is too large")
        self._send_more(streams)


class HeadReader:
    """Unpacks headers, and remembers: clients send the same again and again.

    A block means the same as before while the table of headers is the same.
    """

    def __init__(self) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=MAX_HEAD_BYTES)
        self._kept: dict[bytes, Headers | None] = {}

    def read(self, block: bytes) -> Headers | None:
        """The headers by their names; None for those that no request may have.

        Raises:
            ProtocolError: they cannot be unpacked, or there are too many.
        """
        if block in self._kept:
            return self._kept[block]
        table = self._decoder.header_table.dynamic_entries
        before = len(table), table[0] if table else None
        try:
            pairs = self._decoder.decode(block, raw=True)
        except hpack.OversizedHeaderListError as error:
            raise ProtocolError(Code.ENHANCE_YOUR_CALM, "the headers are too long") from error
        except (hpack.HPACKError, UnicodeDecodeError) as error:
            raise ProtocolError(Code.COMPRESSION_ERROR, f"the headers: {error}") from error
        headers: Headers | None = {bytes(pair[0]): bytes(pair[1]) for pair in pairs}
        if any(name != name.lower() or name in OF_HTTP1 for name in headers or ()):
            headers = None
        after = len(table), table[0] if table else None
        if after[0] != before[0] or after[1] is not before[1]:
            self._kept.clear()
        elif not block[:1] or block[0] & 0xE0 != 0x20:  # one that changes the table's size
            if len(self._kept) == KEPT_HEADS:
                self._kept.clear()
            self._kept[block] = headers
        return headers


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame."""
    return _frame_head(len(payload), kind, flags, stream) + payload


def pack_header(name: bytes, value: bytes) -> bytes:
    """A header for `Http2Connection.respond`, in a form that no table remembers."""
    return b"\x00" + _pack_string(name) + _pack_string(value)


def _pack_string(text: bytes) -> bytes:
    """RFC 7541, sections 5.1 and 5.2: the length with a prefix of 7 bits, then the octets."""
    length = len(text)
    if length < 127:
        return bytes([length]) + text
    length -= 127
    packed = bytearray([127])
    while length >= 128:
        packed.append(length % 128 + 128)
        length //= 128
    packed.append(length)
    return bytes(packed) + text


def _frame_head(length: int, kind: int, flags: int, stream: int) -> bytes:
    return _FRAME.pack(length >> 16, length & 0xFFFF, kind, flags, stream)


def _unpadded(flags: int, payload: bytes) -> bytes:
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ProtocolError(Code.PROTOCOL_ERROR, "more padding than there is")
    return payload[1 : len(payload) - payload[0]]
