"""The ASGI application: one table of frequent routes, no middleware, and Starlette for the rest.

An endpoint of the table takes a `Request` and returns a `Reply`; its errors are translated by its
protocol.
"""

import asyncio
import logging
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import TracebackType
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from keras_cnns_serve.core.json_text import dumps

from .body import Disconnected, Limited, read_body, unpack_beside

logger = logging.getLogger(__name__)

HUNG_UP = 499  # the status, in logs and metrics, of a request whose client hung up
WATCH_SECONDS = 0.05  # of work before the client is watched: to watch costs a task
MAX_CACHED_BYTES = 200  # of a query or a path; longer ones are parsed each time
STOPPED = "the server is stopping and its grace period is over; try again"
CLOSE = (b"connection", b"close")


class Request:
    """One HTTP request.

    Args:
        scope: ASGI's.
        path: the match of the route's pattern.
        max_body_bytes: a longer body, or one that unpacks to more, is refused.
        receive: ASGI's.
    """

    __slots__ = ("_headers", "_max_body_bytes", "_receive", "arrived", "path", "scope")

    def __init__(
        self, scope: Scope, path: re.Match[str], max_body_bytes: int, receive: Receive
    ) -> None:
        self.scope = scope
        self.path = path
        self.arrived = time.monotonic()
        # Of a header that is repeated the first counts.
        self._headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))
        self._receive = receive
        self._max_body_bytes = max_body_bytes

    def header(self, name: bytes) -> str | None:
        """Return a header's value; `name` is in lower case."""
        value = self._headers.get(name)
        return None if value is None else str(value, "latin-1")

    def query(self, name: str) -> str | None:
        """Return the first value of a parameter."""
        text: bytes = self.scope["query_string"]
        if not text:
            return None
        parse = _cached_query if len(text) < MAX_CACHED_BYTES else _parse_query
        values = parse(text).get(name)
        return values[0] if values else None

    async def body(self) -> bytes:
        """Return the whole body, unpacked if it was packed by gzip.

        Raises:
            InputTooLargeError: it is longer than this server accepts.
            TooSlowError: it takes longer than this server waits.
            UnsupportedEncodingError: it is packed in another way.
            InvalidInputError: it cannot be unpacked.
            Disconnected: the client hung up.
        """
        declared = int(self._headers.get(b"content-length", 0))
        body = await read_body(self._receive, self._max_body_bytes, declared)
        encoding = self._headers.get(b"content-encoding")
        if encoding is None:
            return body
        return await unpack_beside(body, str(encoding, "latin-1"), self._max_body_bytes)

    def watched(self) -> "Watch":
        """Return a context that is cancelled, and raises `Disconnected`, if the client hangs up.

        The body must have been read.
        """
        return Watch(self._receive)


class Watch:
    """A context that cancels its task when the client hangs up, and raises `Disconnected`.

    Args:
        receive: ASGI's; what comes next of it is that the client hung up.
    """

    __slots__ = ("_gone", "_receive", "_task", "_timer", "_watcher")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False
        self._watcher: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        self._task = asyncio.current_task(loop)
        self._timer = loop.call_later(WATCH_SECONDS, self._begin, loop)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        if self._gone and self._task is not None and kind in (None, asyncio.CancelledError):
            self._task.uncancel()
            raise Disconnected from None

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._watcher = loop.create_task(self._watch())

    async def _watch(self) -> None:
        message = await self._receive()
        if message["type"] == "http.disconnect" and self._task is not None:
            self._gone = True
            self._task.cancel()


def _parse_query(text: bytes) -> dict[str, list[str]]:
    return parse_qs(text.decode("latin-1"), keep_blank_values=True)


_cached_query = lru_cache(_parse_query)  # a client sends the same parameters again and again


@dataclass(slots=True)
class Reply:
    """An answer, before it is sent."""

    body: bytes
    status: int = 200
    media_type: bytes = b"application/json"
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)


Endpoint = Callable[[Request], Awaitable[Reply]]


@dataclass(frozen=True)
class FastRoute:
    """A route that bypasses Starlette."""

    method: str
    pattern: re.Pattern[str]  # matched against the whole path
    endpoint: Endpoint
    failed: Callable[[Exception], Reply]  # translates what the endpoint raises


class App:
    """The ASGI application.

    Args:
        routes: those that bypass Starlette, the most frequent first.
        otherwise: the application that answers everything else.
        max_body_bytes: a longer body is refused.
        answers: counts every answer by its status.
        finished: called after every answer, with the scope, the status and the seconds it took.
        draining: whether the server stops: each answer is then the last on its connection.
    """

    def __init__(
        self,
        routes: Sequence[FastRoute],
        otherwise: ASGIApp,
        max_body_bytes: int,
        answers: Counter[int],
        finished: Callable[[Scope, int, float], None] | None = None,
        draining: Callable[[], bool] = lambda: False,
    ) -> None:
        self._routes = tuple(routes)
        self._otherwise = otherwise
        self._max_body_bytes = max_body_bytes
        self._answers = answers
        self._finished = finished
        self._draining = draining
        self._cached_find = lru_cache(self._find)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._otherwise(scope, receive, send)
            return
        path: str = scope["path"]
        find = self._cached_find if len(path) < MAX_CACHED_BYTES else self._find
        route, match = find(scope["method"], path)
        if route is None:
            await self._other(scope, receive, send)
            return
        if match is None:
            started = time.monotonic()
            await self._send(_not_allowed(scope["method"], path, route.method), send)
            self._finish(scope, 405, started)
            return
        request = Request(scope, match, self._max_body_bytes, receive)
        status = HUNG_UP
        try:
            reply = await _answer(route, request)
            if reply is not None:
                status = reply.status
                await self._send(reply, send)
        finally:
            self._finish(scope, status, request.arrived)

    def _find(self, method: str, path: str) -> tuple[FastRoute | None, re.Match[str] | None]:
        """Return the route and the match of its path, which is None for another method's."""
        found = None
        for route in self._routes:
            if match := route.pattern.fullmatch(path):
                if route.method == method:
                    return route, match
                found = route
        return found, None

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.monotonic()
        status, started_to_send = 500, False
        declared = int(dict(scope["headers"]).get(b"content-length", 0))
        limited = Limited(receive, self._max_body_bytes, declared)

        async def noted(message: Message) -> None:
            nonlocal status, started_to_send
            if message["type"] == "http.response.start":
                status, started_to_send = message["status"], True
                message["headers"] = self._with_close([*message.get("headers", ())])
            await send(message)

        try:
            await self._otherwise(scope, limited, noted)
        except asyncio.CancelledError:
            if started_to_send:
                raise
            status = 503
            await self._send(_stopped(), send)
        finally:
            self._finish(scope, status, started)

    async def _send(self, reply: Reply, send: Send) -> None:
        length = b"%d" % len(reply.body)
        headers = [(b"content-type", reply.media_type), (b"content-length", length), *reply.headers]
        headers = self._with_close(headers)
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    def _with_close(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        if self._draining() and CLOSE not in headers:
            headers.append(CLOSE)
        return headers

    def _finish(self, scope: Scope, status: int, started: float) -> None:
        self._answers[status] += 1
        if self._finished is not None:
            self._finished(scope, status, time.monotonic() - started)


async def _answer(route: FastRoute, request: Request) -> Reply | None:
    """Return what to answer, or None to a client that hung up."""
    try:
        return await route.endpoint(request)
    except Disconnected:
        return None
    except asyncio.CancelledError:  # by the server, whose grace is over
        return _stopped()
    except Exception as error:
        reply = route.failed(error)
        if reply.status == 500:
            logger.error("a request failed", exc_info=error)
        return reply


def _stopped() -> Reply:
    return Reply(dumps({"error": STOPPED}), 503, headers=[(b"retry-after", b"1")])


def _not_allowed(method: str, path: str, allowed: str) -> Reply:
    message = f"Method Not Allowed: {method} {path:.200}; allowed here: {allowed}"
    return Reply(dumps({"error": message}), 405, headers=[(b"allow", allowed.encode())])
