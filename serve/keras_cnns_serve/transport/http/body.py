"""The body of an HTTP request: its length, its time, and its encoding."""

import asyncio
import contextlib
import zlib
from collections.abc import Generator
from types import coroutine
from typing import Any

from starlette.types import Message, Receive

from keras_cnns_serve.core.limits import seconds_for
from keras_cnns_serve.errors import (
    InputTooLargeError,
    InvalidInputError,
    TooSlowError,
    UnsupportedEncodingError,
)

DRAIN_SECONDS = 2  # for the rest of a body that is too long
BESIDE_BYTES = 2**9  # of a packed body; unpacked it may be a thousand times as long
FIRST_PIECE, MAX_PIECE = 512, 2**20  # bytes that a decoder is given at once
MAX_MEMBERS = 10_000  # of a gzip file; programs that write many have one for each 64 KiB


class Disconnected(Exception):  # noqa: N818 - it is an event
    """The client hung up before its request was complete or answered."""


class Limited:
    """ASGI's receive, for a body of limited length and in limited time.

    Args:
        receive: ASGI's.
        max_bytes: a longer body is refused, before it is read where its length is declared.
        declared: the header Content-Length, 0 without it.

    Raises:
        InputTooLargeError: the body is longer.
        TooSlowError: it takes longer.
    """

    def __init__(self, receive: Receive, max_bytes: int, declared: int) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._read = declared if declared > max_bytes else 0
        self._complete = False
        self._started = asyncio.get_running_loop().time()

    async def __call__(self) -> Message:
        """Return the next part of the body."""
        message: Message = {} if self._read > self._max_bytes else await self._next()
        self._read += len(message.get("body", b""))
        if self._read > self._max_bytes:
            await drain(self._receive, self._max_bytes)
            raise InputTooLargeError(f"the body has more than {self._max_bytes:,} bytes")
        return message

    async def _next(self) -> Message:
        if self._complete:  # what comes now is that the client hangs up, at any time
            return await self._receive()
        waiting = self._receive().__await__()
        try:
            future = next(waiting)
        except StopIteration as arrived:  # as nearly always: it costs no timer
            message: Message = arrived.value
        else:
            try:
                async with asyncio.timeout_at(self._started + seconds_for(self._read)):
                    message = await _rest(future, waiting)
            except TimeoutError:
                raise TooSlowError(
                    f"the body comes too slowly: {self._read:,} bytes so far"
                ) from None
        self._complete = not message.get("more_body", False)
        return message


@coroutine
def _rest(future: Any, waiting: Generator[Any, Any, Message]) -> Generator[Any, Any, Message]:
    """Await what has been begun with `future`, its first step."""
    try:
        yield future
    except BaseException as error:
        waiting.throw(error)
        raise
    return (yield from waiting)


async def read_body(receive: Receive, max_bytes: int, declared: int = 0) -> bytes:
    """Return the body as it came.

    Args:
        receive: ASGI's.
        max_bytes: a longer body is refused, before it is read where its length is declared.
        declared: the header Content-Length, 0 without it.

    Raises:
        InputTooLargeError: it is longer than `max_bytes`.
        TooSlowError: it takes longer than this server waits.
        Disconnected: the client hung up.
    """
    limited = Limited(receive, max_bytes, declared)
    pieces = []
    more = True
    while more:
        message = await limited()
        if message["type"] != "http.request":
            raise Disconnected
        pieces.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(pieces)  # of a single piece this is no copy


async def drain(receive: Receive, max_bytes: int) -> None:
    """Discard what still comes, for a while: a client that sends does not read the answer.

    To close a connection with unread bytes resets it, and the answer is lost.
    """
    drained = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            more = True
            while more and drained < max_bytes:
                message = await receive()
                drained += len(message.get("body", b""))
                more = message.get("more_body", False)


def unpack(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Return the body unpacked as its Content-Encoding says.

    Raises:
        UnsupportedEncodingError: the encoding is unknown.
        InputTooLargeError: it unpacks to more than `max_bytes`.
        InvalidInputError: it is damaged or cut short.
    """
    match encoding.strip().lower():
        case "" | "identity":
            return body
        case "gzip" | "x-gzip" | "deflate":
            pass
        case other:
            raise UnsupportedEncodingError(
                f"Content-Encoding {other!r:.40} is not read here; gzip and deflate are"
            )
    unpacked = bytearray()
    packed = memoryview(body)
    position = members = 0
    # A gzip file may have several members. Each is read in pieces that grow with it, because a
    # decoder copies what its member leaves of a piece.
    decoder, piece = _decoder(), FIRST_PIECE
    try:
        while position < len(packed):
            if decoder.eof:
                members += 1
                if members == MAX_MEMBERS:
                    raise InvalidInputError(f"the body has more than {MAX_MEMBERS:,} gzip members")
                decoder, piece = _decoder(), FIRST_PIECE
            given = packed[position : position + piece]
            unpacked += decoder.decompress(given, max_bytes + 1 - len(unpacked))
            if len(unpacked) > max_bytes:
                raise InputTooLargeError(f"the body unpacks to more than {max_bytes:,} bytes")
            position += len(given) - len(decoder.unused_data)
            piece = min(2 * piece, MAX_PIECE)
    except zlib.error as error:
        raise InvalidInputError(f"the body cannot be unpacked: {error}") from error
    if body and not decoder.eof:
        raise InvalidInputError("the body, packed by gzip, is cut short")
    return bytes(unpacked)


async def unpack_beside(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Do as `unpack`, in another thread where it would keep the event loop busy."""
    if len(body) < BESIDE_BYTES:
        return unpack(body, encoding, max_bytes)
    return await asyncio.to_thread(unpack, body, encoding, max_bytes)


def _decoder() -> Any:
    return zlib.decompressobj(zlib.MAX_WBITS | 32)  # 32: a header of gzip or of zlib
