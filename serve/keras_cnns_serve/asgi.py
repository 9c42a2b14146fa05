"""The short way from an ASGI request to an endpoint: one table of paths, no middleware between.

What is asked thousands of times a second goes this way, and the rest through Starlette. An
endpoint takes a `Request` and gives a `Reply`; its errors are translated by its protocol.
"""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .body import Disconnected, Limited, read_body, unpack_beside
from .json_tensor import dumps

# Extensions of ASGI that our server offers: the whole body, if it has come already; a call when the
# client hangs up; the whole answer in one call, and in one packet.
ARRIVED = "keras_cnns_serve.arrived"
HANG_UP = "keras_cnns_serve.hang_up"
WHOLE = "keras_cnns_serve.whole"
MAX_KEPT_QUERY = 200  # bytes; a longer one is parsed each time
STOPPED = "the server stops, and its time for what is in flight is over; ask again"


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
        text: bytes = self.scope["query_string"]
        if not text:
            return None
        parse = _parsed_query if len(text) < MAX_KEPT_QUERY else _parse_query
        values = parse(text).get(name)
        return values[0] if values else None

    async def body(self) -> bytes:
        """The whole body, unpacked if it came packed by gzip.

        Raises:
            InputTooLargeError: it is longer than this server takes.
            UnsupportedEncodingError: it is packed in another way.
            InvalidInputError: it cannot be unpacked.
            Disconnected: the client hung up.
        """
        arrived = self._extension(ARRIVED)
        body = None if arrived is None else arrived(self._max_body_bytes)
        if body is None:
            body = await read_body(self.scope, self._receive, self._max_body_bytes)
        encoding = self.header(b"content-encoding")
        if encoding is None:
            return body
        return await unpack_beside(body, encoding, self._max_body_bytes)

    def watched(self) -> "Watch":
        """Cancels what is inside when the client hangs up, and raises `Disconnected` then."""
        return Watch(self._extension(HANG_UP))

    def _extension(self, name: str) -> Any:
        return self.scope.get("extensions", {}).get(name)


class Watch:
    """Cancels the task that entered it when the client hangs up.

    Args:
        listen: takes what is called then, or None; None without a server that tells.
    """

    __slots__ = ("_gone", "_listen", "_task")

    def __init__(self, listen: Callable[[Callable[[], None] | None], None] | None) -> None:
        self._listen = listen
        self._gone = False
        self._task: asyncio.Task[Any] | None = None

    def __enter__(self) -> None:
        if self._listen is not None:
            self._task = asyncio.current_task()
            self._listen(self._hang_up)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._listen is not None:
            self._listen(None)
        if self._gone and self._task is not None and kind in (None, asyncio.CancelledError):
            self._task.uncancel()
            raise Disconnected from None

    def _hang_up(self) -> None:
        self._gone = True
        if self._task is not None:
            self._task.cancel()


def _parse_query(text: bytes) -> dict[str, list[str]]:
    return parse_qs(text.decode("latin-1"), keep_blank_values=True)


_parsed_query = lru_cache(_parse_query)  # a client asks with the same parameters again and again


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
        except asyncio.CancelledError:  # by the server alone: its grace is over
            reply = _stopped()
        except Exception as error:
            reply = route.failed(error)
            unexpected = error if reply.status == 500 else None
        await _send(reply, request.scope, send)
        self._finish(request.scope, reply.status, request.arrived)
        if unexpected is not None:
            raise unexpected  # so that the server logs it

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.monotonic()
        status, started_to_send = 500, False
        limited = Limited(scope, receive, self._max_body_bytes)

        async def noted(message: Message) -> None:
            nonlocal status, started_to_send
            if message["type"] == "http.response.start":
                status, started_to_send = message["status"], True
            await send(message)

        try:
            await self._otherwise(scope, limited, noted)
        except asyncio.CancelledError:
            if started_to_send:
                raise
            status = 503
            await _send(_stopped(), scope, send)
        finally:
            self._finish(scope, status, started)

    def _finish(self, scope: Scope, status: int, started: float) -> None:
        self._answers[status] += 1
        if self._finished is not None:
            self._finished(scope, status, time.monotonic() - started)


def _stopped() -> Reply:
    return Reply(dumps({"error": STOPPED}), 503, headers=[(b"retry-after", b"1")])


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
