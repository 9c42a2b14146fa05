"""The short way from an ASGI request to an endpoint: one table of paths, no middleware between.

What is asked thousands of times a second goes this way, and the rest through Starlette. An
endpoint takes a `Request` and gives a `Reply`; its errors are translated by its protocol.
"""

import asyncio
import contextlib
import re
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import InputTooLargeError, InvalidInputError, UnsupportedEncodingError
from .json_tensor import dumps

DRAIN_SECONDS = 2  # for the rest of a body that is too long
WATCH_AFTER = 0.05  # seconds; an answer that takes longer is watched for its client's hanging up

# An extension of ASGI that our server offers: the whole answer in one call, and in one packet.
WHOLE = "keras_cnns_serve.whole"


class Disconnected(Exception):  # noqa: N818 - it is an event
    """The client hung up before its request was complete or answered."""


class Request:
    """One HTTP request.

    Args:
        scope: ASGI's.
        receive: ASGI's.
        path: the match of the path's pattern.
        max_body_bytes: a longer body, or one that unpacks to more, is refused.
    """

    __slots__ = ("_max_body_bytes", "_receive", "arrived", "path", "scope")

    def __init__(
        self, scope: Scope, receive: Receive, path: re.Match[str], max_body_bytes: int
    ) -> None:
        self.scope = scope
        self.path = path
        self.arrived = time.monotonic()
        self._receive = receive
        self._max_body_bytes = max_body_bytes

    def header(self, name: bytes) -> str | None:
        """A header's value; `name` is in lower case."""
        headers: list[tuple[bytes, bytes]] = self.scope["headers"]
        for key, value in headers:
            if key == name:
                return str(value, "latin-1")
        return None

    def query(self, name: str) -> str | None:
        """The first value of a parameter."""
        if not self.scope["query_string"]:
            return None
        text: bytes = self.scope["query_string"]
        values = parse_qs(text.decode("latin-1"), keep_blank_values=True).get(name)
        return values[0] if values else None

    async def body(self) -> bytes:
        """The whole body, unpacked if it came packed by gzip.

        Raises:
            InputTooLargeError: it is longer than this server takes.
            UnsupportedEncodingError: it is packed in another way.
            InvalidInputError: it cannot be unpacked.
            Disconnected: the client hung up.
        """
        body = await read_body(self.scope, self._receive, self._max_body_bytes)
        encoding = self.header(b"content-encoding")
        return body if encoding is None else _unpack(body, encoding, self._max_body_bytes)

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Cancels what is inside when the client hangs up; the body must have been read.

        Raises:
            Disconnected: it did.
        """
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        watch: list[asyncio.Task[None]] = []
        gone = False

        async def hang_up() -> None:
            nonlocal gone
            while (await self._receive())["type"] != "http.disconnect":
                pass
            gone = True
            task.cancel()

        timer = loop.call_later(WATCH_AFTER, lambda: watch.append(loop.create_task(hang_up())))
        try:
            yield
        except asyncio.CancelledError:
            if not gone:
                raise
            task.uncancel()
            raise Disconnected from None
        finally:
            timer.cancel()
            if watch and not gone:
                watch[0].cancel()


@dataclass(slots=True)
class Reply:
    """What to answer."""

    body: bytes
    status: int = 200
    media_type: bytes = b"application/json"
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)


Endpoint = Callable[[Request], Awaitable[Reply]]


@dataclass(frozen=True)
class FastRoute:
    """A path that goes the short way."""

    method: str
    pattern: re.Pattern[str]  # matched against the whole path
    endpoint: Endpoint
    failed: Callable[[Exception], Reply]  # translates what the endpoint raises


class App:
    """The ASGI application: the short way for some routes, another application for the rest.

    Args:
        routes: what goes the short way, the most frequent first.
        otherwise: what answers everything else.
        max_body_bytes: the longest body that is taken.
        answers: counts every answer by its status.
        finished: called after every answer, with the scope, the status and the seconds it took.
    """

    def __init__(
        self,
        routes: Sequence[FastRoute],
        otherwise: ASGIApp,
        max_body_bytes: int,
        answers: Counter[int],
        finished: Callable[[Scope, int, float], None] | None = None,
    ) -> None:
        self._routes = tuple(routes)
        self._otherwise = otherwise
        self._max_body_bytes = max_body_bytes
        self._answers = answers
        self._finished = finished

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._otherwise(scope, receive, send)
            return
        path, method = scope["path"], scope["method"]
        allowed = ""
        for route in self._routes:
            if match := route.pattern.fullmatch(path):
                if route.method == method:
                    request = Request(scope, receive, match, self._max_body_bytes)
                    await self._answer(route, request, send)
                    return
                allowed = route.method
        if allowed:
            message = f"Method Not Allowed: {method} {path:.200}; allowed here: {allowed}"
            reply = Reply(dumps({"error": message}), 405, headers=[(b"allow", allowed.encode())])
            await _send(reply, scope, send)
            self._finish(scope, 405, time.monotonic())
            return
        await self._other(scope, receive, send)

    async def _answer(self, route: FastRoute, request: Request, send: Send) -> None:
        unexpected: Exception | None = None
        try:
            reply = await route.endpoint(request)
        except Disconnected:
            self._finish(request.scope, 499, request.arrived)
            return
        except Exception as error:
            reply = route.failed(error)
            unexpected = error if reply.status == 500 else None
        await _send(reply, request.scope, send)
        self._finish(request.scope, reply.status, request.arrived)
        if unexpected is not None:
            raise unexpected  # so that the server logs it

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.monotonic()
        status = 500
        limited = Limited(scope, receive, self._max_body_bytes)

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._otherwise(scope, limited, noted)
        finally:
            self._finish(scope, status, started)

    def _finish(self, scope: Scope, status: int, started: float) -> None:
        self._answers[status] += 1
        if self._finished is not None:
            self._finished(scope, status, time.monotonic() - started)


async def _send(reply: Reply, scope: Scope, send: Send) -> None:
    headers = [
        (b"content-type", reply.media_type),
        (b"content-length", b"%d" % len(reply.body)),
        *reply.headers,
    ]
    whole = scope.get("extensions", {}).get(WHOLE)
    if whole is not None:
        await whole(reply.status, headers, reply.body)
        return
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


class Limited:
    """ASGI's receive, for a body of limited length.

    Raises:
        InputTooLargeError: it is longer.
    """

    def __init__(self, scope: Scope, receive: Receive, max_bytes: int) -> None:
        declared = next((v for k, v in scope["headers"] if k == b"content-length"), b"0")
        self._receive = receive
        self._max_bytes = max_bytes
        self._read = int(declared) if int(declared) > max_bytes else 0

    async def __call__(self) -> Message:
        """The next part of the body."""
        message: Message = {} if self._read > self._max_bytes else await self._receive()
        self._read += len(message.get("body", b""))
        if self._read > self._max_bytes:
            await drain(self._receive, self._max_bytes)
            raise too_long(self._max_bytes)
        return message


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """The body as it came.

    A declared length is refused before anything is read; chunks are counted as they come.

    Raises:
        InputTooLargeError: it is longer than `max_bytes`.
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


def _unpack(body: bytes, encoding: str, max_bytes: int) -> bytes:
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
    try:
        while body:
            # 32: a header of gzip or of zlib. A gzip file may have several members.
            decoder: Any = zlib.decompressobj(zlib.MAX_WBITS | 32)
            unpacked += decoder.decompress(body, max_bytes + 1 - len(unpacked))
            if len(unpacked) > max_bytes:
                raise InputTooLargeError(f"the body unpacks to more than {max_bytes:,} bytes")
            if not decoder.eof:
                raise InvalidInputError("the body, packed by gzip, is cut short")
            body = decoder.unused_data
    except zlib.error as error:
        raise InvalidInputError(f"the body cannot be unpacked: {error}") from error
    return bytes(unpacked)
