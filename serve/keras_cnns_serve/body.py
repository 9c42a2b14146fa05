"""The body of an HTTP request: of limited length, unpacked."""

import asyncio
import contextlib
import zlib
from typing import Any

from starlette.types import Message, Receive, Scope

from .errors import (
    InputTooLargeError,
    InvalidInputError,
    TooSlowError,
    UnsupportedEncodingError,
)

DRAIN_SECONDS = 2  # for the rest of a body that is too long
BODY_SECONDS = 20  # for a body, and more for what has come of it at this rate:
SLOWEST_RATE = 10_000  # bytes a second
BESIDE_BYTES = 2**9  # packed; a thousand times as much may come of them
FIRST_PIECE, LARGEST_PIECE = 512, 2**20  # bytes that a decoder is given at once
MAX_MEMBERS = 10_000  # of a gzip file; writers of many have one for 64 KiB


class Disconnected(Exception):  # noqa: N818 - it is an event
    """The client hung up before its request was complete or answered."""


class Limited:
    """ASGI's receive, for a body of limited length and in limited time.

    Raises:
        InputTooLargeError: it is longer.
        TooSlowError: it takes longer.
    """

    def __init__(self, scope: Scope, receive: Receive, max_bytes: int) -> None:
        declared = next((v for k, v in scope["headers"] if k == b"content-length"), b"0")
        self._receive = receive
        self._max_bytes = max_bytes
        self._read = int(declared) if int(declared) > max_bytes else 0
        self._complete = False
        self._started = asyncio.get_running_loop().time()

    async def __call__(self) -> Message:
        """The next part of the body."""
        message: Message = {} if self._read > self._max_bytes else await self._next()
        self._read += len(message.get("body", b""))
        if self._read > self._max_bytes:
            await drain(self._receive, self._max_bytes)
            raise too_long(self._max_bytes)
        return message

    async def _next(self) -> Message:
        if self._complete:  # what comes now is that the client hangs up, at any time
            return await self._receive()
        deadline = self._started + seconds_for(self._read)
        try:
            async with asyncio.timeout_at(deadline):
                message = await self._receive()
        except TimeoutError:
            raise TooSlowError(f"the body comes too slowly: {self._read:,} bytes so far") from None
        self._complete = not message.get("more_body", False)
        return message


def seconds_for(size: int) -> float:
    """How long so many bytes may be on their way."""
    return BODY_SECONDS + size / SLOWEST_RATE


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """The body as it came.

    A declared length is refused before anything is read; chunks are counted as they come.

    Raises:
        InputTooLargeError: it is longer than `max_bytes`.
        TooSlowError: it takes longer than this server waits.
        Disconnected: the client hung up.
    """
    limited = Limited(scope, receive, max_bytes)
    message = await limited()
    if message["type"] == "http.request" and not message.get("more_body", False):
        body: bytes = message.get("body", b"")
        return body
    pieces = bytearray()
    while message["type"] == "http.request":
        pieces += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(pieces)
        message = await limited()
    raise Disconnected


async def drain(receive: Receive, max_bytes: int) -> None:
    """Throw away what still comes, for a while: a client that sends cannot read the answer.

    To close with bytes unread resets the connection, and the answer is lost with it.
    """
    drained = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            more = True
            while more and drained < max_bytes:
                message = await receive()
                drained += len(message.get("body", b""))
                more = message.get("more_body", False)


def too_long(max_bytes: int) -> InputTooLargeError:
    """The error for a body of more than `max_bytes`."""
    return InputTooLargeError(f"the body has more than {max_bytes:,} bytes")


def unpack(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Unpacks what a Content-Encoding says was packed.

    Raises:
        UnsupportedEncodingError: the encoding is not known here.
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
            piece = min(2 * piece, LARGEST_PIECE)
    except zlib.error as error:
        raise InvalidInputError(f"the body cannot be unpacked: {error}") from error
    if body and not decoder.eof:
        raise InvalidInputError("the body, packed by gzip, is cut short")
    return bytes(unpacked)


async def unpack_beside(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """`unpack`, in another thread where it would keep the event loop busy; raises the same."""
    if len(body) < BESIDE_BYTES:
        return unpack(body, encoding, max_bytes)
    return await asyncio.to_thread(unpack, body, encoding, max_bytes)


def _decoder() -> Any:
    return zlib.decompressobj(zlib.MAX_WBITS | 32)  # 32: a header of gzip or of zlib
