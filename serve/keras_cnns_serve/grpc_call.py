"""A gRPC call: messages in, messages or an error out.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from enum import IntEnum
from typing import Any
from urllib.parse import quote

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from .body import seconds_for, unpack_beside
from .errors import (
    UNEXPECTED,
    InputTooLargeError,
    InvalidInputError,
    QueueFullError,
    ServeError,
    TooSlowError,
    code_name,
)
from .http2 import Http2Connection, Stream
from .http2_frames import Code
from .http2_headers import Headers, pack_header

logger = logging.getLogger(__name__)

SLACK = 0.02  # seconds; the client's clock may end a call a moment before ours would
MAX_DETAILS = 4000  # bytes; they travel in a header, and clients take 8 KiB of those
UNFINISHED = 4  # messages of the largest size, of a connection, of which parts may be kept
PREFIX = 5  # bytes before a message: whether it is packed, and its length
UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
PACKINGS = (b"identity", b"gzip", b"deflate")
PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")
HEAD = b"\x88" + pack_header(b"content-type", b"application/grpc")  # 0x88: the status 200
OK = pack_header(b"grpc-status", b"0")
NOT_GRPC = pack_header(b":status", b"415")

# From a request and its deadline, `time.monotonic()` or None, to a response.
Unary = Callable[[Any, float | None], Awaitable[Any]]
# From requests, and what gives the deadline of one that begins now, to responses.
Streaming = Callable[[AsyncIterator[Any], Callable[[], float | None]], AsyncIterator[Any]]
# Told of a call: its path, the client, the name of its status, and the seconds it took.
Finished = Callable[[str, str, str, float], None]


class Status(IntEnum):
    """How a call ends (google.rpc.Code)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


class Method:
    """A method of a service.

    Args:
        descriptor: what it is in the proto.
        unary: what answers it, if one response does.
        streaming: or else what does.
    """

    def __init__(
        self, descriptor: MethodDescriptor, unary: Unary | None, streaming: Streaming | None
    ) -> None:
        self.path = f"/{descriptor.containing_service.full_name}/{descriptor.name}"
        self.takes_stream = descriptor.client_streaming
        self.unary, self.streaming = unary, streaming
        self._from_string = GetMessageClass(descriptor.input_type).FromString

    def parse(self, message: bytes) -> Any:
        """Reads a request.

        Raises:
            InvalidInputError: it is no message of this method.
        """
        try:
            return self._from_string(message)
        except DecodeError as error:
            raise InvalidInputError(f"the message cannot be parsed: {error}") from error


@dataclass(frozen=True)
class Limits:
    """What a call may take."""

    message_bytes: int
    timeout: float | None  # seconds


class CallError(Exception):
    """A call ends with this status, for no reason that the core knows."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


class Refusal(Stream):
    """A request that calls no method there is."""

    __slots__ = ()

    def begun(self) -> None:
        """Says why."""
        if not is_grpc(self.headers):
            self.connection.respond(self, NOT_GRPC)
            return
        path = self.headers.get(b":path", b"").decode("latin-1")
        message = f"there is no method {path:.200}"
        self.connection.respond(self, HEAD + _trailer(Status.UNIMPLEMENTED, message))


class Call(Stream):
    """A call of a method: one request, one response.

    Args:
        connection, number, headers: as `Stream` has them.
        method: what is called.
        limits: what the call may take.
        finished: told when it ends.
    """

    __slots__ = (
        "_arrived",
        "_body",
        "_finished",
        "_give_up",
        "_head",
        "_task",
        "deadline",
        "limits",
        "method",
    )

    def __init__(
        self,
        connection: Http2Connection,
        number: int,
        headers: Headers,
        method: Method,
        limits: Limits,
        finished: Finished | None,
    ) -> None:
        super().__init__(connection, number, headers)
        self.method = method
        self.limits = limits
        self.deadline: float | None = None
        self._finished = finished
        self._arrived = time.monotonic()
        self._give_up: float | None = None  # when a client must have taken all of the answer
        self._body = bytearray()  # what came of it, where it did not come in one piece
        self._task: asyncio.Task[None] | None = None
        self._head = HEAD  # of the answer; empty when it is sent

    def begun(self) -> None:
        """Reads what the headers say."""
        packing = self.headers.get(b"grpc-encoding", PACKINGS[0])
        if packing not in PACKINGS:
            message = f"grpc-encoding {packing.decode('latin-1'):.40} is not read here"
            known = pack_header(b"grpc-accept-encoding", b",".join(PACKINGS))
            self.fail(CallError(Status.UNIMPLEMENTED, message), known)
            return
        text = self.headers.get(b"grpc-timeout")
        if text is None:
            return
        if not re.fullmatch(rb"[0-9]{1,8}[HMSmun]", text):
            message = f"grpc-timeout is no time: {text.decode('latin-1'):.40}"
            self.fail(CallError(Status.INTERNAL, message))
            return
        self.deadline = self._arrived + int(text[:-1]) * UNITS[text[-1:]]

    def received(self, data: bytes) -> None:
        """Answers, when all is there."""
        try:
            if self._body or not self.ended:
                self._body += data
                self.keep(len(data))
                self.taken(len(data))
                if not self.ended:
                    self.expect_more()
                    return
                data = bytes(self._body)
                self._body.clear()
                self.keep(-self.kept)
            size = self.message_size(data)
            if len(data) != PREFIX + size:
                message = f"one message was expected, but {len(data)} bytes came"
                raise CallError(Status.INTERNAL, message)
        except CallError as error:
            self.fail(error)
            return
        self.start(self.answer(bool(data[0]), data[PREFIX:]))

    def lost(self) -> None:
        """Nobody waits for the answer."""
        if self._task is not None:
            self._task.cancel()
        self.tell("DEADLINE_EXCEEDED" if self._is_late() else "CANCELLED")

    def stop(self) -> None:
        """The server's time is over."""
        self.fail(CallError(Status.UNAVAILABLE, "the server stops; ask again"))
        if self._task is not None:
            self._task.cancel()

    def next_deadline(self) -> float | None:
        """That of a request which begins now: the client's, or the server's if it is sooner."""
        if self.limits.timeout is None:
            return self.deadline
        limit = time.monotonic() + self.limits.timeout
        return limit if self.deadline is None else min(limit, self.deadline)

    def check(self) -> None:
        """Ends the call if its message comes or its answer goes too slowly, or is too late."""
        now, came = time.monotonic(), len(self._body)
        if self._give_up is not None and now > self._give_up:
            self.connection.reset(self, Code.CANCEL)
        elif self._task is None and now > self._arrived + seconds_for(came):
            self.fail(TooSlowError(f"the message comes too slowly: {came:,} bytes so far"))
        elif self.deadline is not None and now > self.deadline:
            self.fail(CallError(Status.DEADLINE_EXCEEDED, "the call's time is over"))
            if self._task is not None:
                self._task.cancel()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Works beside the connection."""
        self._task = asyncio.get_running_loop().create_task(work)

    async def read(self, packed: bool, message: bytes) -> Any:
        """The request that a message is.

        Raises:
            CallError, ServeError: it is none.
        """
        if packed:
            packing = self.headers.get(b"grpc-encoding", PACKINGS[0])
            if packing == PACKINGS[0]:
                raise CallError(Status.INTERNAL, "a message is packed, but no grpc-encoding told")
            most = self.limits.message_bytes
            try:
                message = await unpack_beside(message, packing.decode(), most)
            except InputTooLargeError as error:
                raise CallError(Status.RESOURCE_EXHAUSTED, f"{error}, larger than max") from error
        return self.method.parse(message)

    def message_size(self, data: bytes | bytearray) -> int:
        """How many bytes the first message has, as it says; 0 while it has not said.

        Raises:
            CallError: that is too many.
        """
        size = int.from_bytes(data[1:PREFIX]) if len(data) >= PREFIX else 0
        most = self.limits.message_bytes
        if size > most:
            message = f"the message is larger than max: {size:,} bytes, not {most:,}"
            raise CallError(Status.RESOURCE_EXHAUSTED, message)
        return size

    def send(self, message: bytes = b"", trailer: bytes | None = None) -> None:
        """Sends a message, and with a trailer the end."""
        head, self._head = self._head, b""
        if not message and trailer is not None:
            head, trailer = (head + trailer, None) if head else (b"", trailer)
        self.connection.respond(self, head, message, trailer)
        if self.unsent and trailer is not None:
            self._give_up = time.monotonic() + seconds_for(len(message))

    def fail(self, error: Exception, more: bytes = b"") -> None:
        """Ends the call with an error; `more` are headers to go with it."""
        message = str(error)
        if isinstance(error, CallError):
            status = error.status
        else:
            status = Status[code_name(error)]
            if isinstance(error, QueueFullError):
                wait = b"%d" % round(error.retry_after * 1e3)
                more += pack_header(b"grpc-retry-pushback-ms", wait)
            elif not isinstance(error, ServeError):
                logger.error("a gRPC call failed", exc_info=error)
                message = UNEXPECTED
        if self.unsent:  # the client does not take what it has
            self.connection.reset(self, Code.CANCEL)
        else:
            self.send(trailer=_trailer(status, message) + more)
        self.tell(status.name)

    def tell(self, code: str) -> None:
        """The call is over."""
        if self._finished is not None:
            seconds = time.monotonic() - self._arrived
            self._finished(self.method.path, self.connection.client, code, seconds)
            self._finished = None

    async def answer(self, packed: bool, message: bytes) -> None:
        """Answers the one request."""
        assert self.method.unary is not None
        try:
            request = await self.read(packed, message)
            response = await self.method.unary(request, self.next_deadline())
            content = response.SerializeToString()
        except Exception as error:
            self.fail(error)
        else:
            self.send(_prefixed(content), OK)
            self.tell("OK")

    def expect_more(self) -> None:
        """Sees that what came of the next message is not too much.

        Raises:
            CallError: it is.
        """
        self.message_size(self._body)
        if self.connection.kept > UNFINISHED * self.limits.message_bytes:
            message = "too many messages that are not complete on one connection"
            raise CallError(Status.RESOURCE_EXHAUSTED, message)

    def _is_late(self) -> bool:
        return self.deadline is not None and time.monotonic() > self.deadline - SLACK


class StreamingCall(Call):
    """A call of one request that is answered by a stream."""

    __slots__ = ("_room",)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._room = asyncio.Event()  # the client has taken what was sent

    def drained(self) -> None:
        """The client takes more."""
        self._room.set()

    async def answer(self, packed: bool, message: bytes) -> None:
        """Answers the one request."""

        async def requests() -> AsyncIterator[Any]:
            yield await self.read(packed, message)

        await self.answer_all(requests())

    async def answer_all(self, requests: AsyncIterator[Any]) -> None:
        """Answers requests, as fast as the client takes it."""
        assert self.method.streaming is not None
        try:
            async with asyncio.timeout_at(self.deadline):
                async for response in self.method.streaming(requests, self.next_deadline):
                    self.send(_prefixed(response.SerializeToString()))
                    await asyncio.sleep(0)  # others have their turn, whatever waits here
                    while self.unsent and self.open:
                        self._room.clear()
                        await self._room.wait()
        except TimeoutError:
            self.fail(CallError(Status.DEADLINE_EXCEEDED, "the call's time is over"))
        except Exception as error:
            self.fail(error)
        else:
            self.send(trailer=OK)
            self.tell("OK")


class BidirectionalCall(StreamingCall):
    """A call whose requests are a stream, too."""

    __slots__ = ("_awaited", "_returned_early")

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._awaited = asyncio.Event()  # a message, or the end
        self._returned_early = 0  # bytes of what waits that the client may send anew already

    def begun(self) -> None:
        """Starts to answer."""
        super().begun()
        if self.open:
            self.start(self.answer_all(self._requests()))

    def received(self, data: bytes) -> None:
        """Keeps it until its turn comes."""
        self._body += data
        self.keep(len(data))
        try:
            self.expect_more()
        except CallError as error:
            self.fail(error)
            self.lost()
        self._awaited.set()

    async def _requests(self) -> AsyncIterator[Any]:
        """While a message waits the client may send a window's bytes ahead, and no more."""
        while True:
            end = PREFIX + self.message_size(self._body)
            if len(self._body) >= end:
                packed, message = bool(self._body[0]), bytes(self._body[PREFIX:end])
                del self._body[:end]
                self.keep(-end)
                early = min(end, self._returned_early)
                self._returned_early -= early
                self.taken(end - early)
                yield await self.read(packed, message)
            elif self.ended:
                if self._body:
                    raise CallError(Status.INTERNAL, "the last message is cut short")
                return
            else:
                self.taken(len(self._body) - self._returned_early)
                self._returned_early = len(self._body)
                self._awaited.clear()
                await self._awaited.wait()


def is_grpc(headers: Headers) -> bool:
    """Whether the content type is gRPC's; that of gRPC-Web, which browsers speak, is another."""
    return re.match(rb"application/grpc($|[+;])", headers.get(b"content-type", b"")) is not None


def _prefixed(message: bytes) -> bytes:
    return b"\x00" + len(message).to_bytes(4) + message


def _trailer(status: Status, message: str) -> bytes:
    text = quote(message[:MAX_DETAILS], safe=PRINTABLE)
    while len(text) > MAX_DETAILS:  # a character has up to twelve bytes there
        message = message[: len(message) // 2]
        text = quote(message, safe=PRINTABLE)
    packed = pack_header(b"grpc-message", text.encode())
    return pack_header(b"grpc-status", b"%d" % status) + packed
