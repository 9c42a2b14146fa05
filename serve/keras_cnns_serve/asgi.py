"""The short way from an ASGI request to an endpoint: one table of paths, no middleware between.

What is asked thousands of times a second goes this way, and the rest through Starlette. An
endpoint takes a `Request` and gives a `Reply`; its errors are translated by its protocol.
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
from typing import Any
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .body import Disconnected, Limited, read_body, too_long, unpack_beside
from .json_tensor import dumps

logger = logging.getLogger(__name__)

# Extensions of ASGI that our server offers: the whole body, if it has come already; a call when the
# client hangs up; the whole answer in one call, and in one packet.
ARRIVED = "keras_cnns_serve.arrived"
HANG_UP = "keras_cnns_serve.hang_up"
WHOLE = "keras_cnns_serve.whole"
HUNG_UP = 499  # the status of a request whose client did, in logs and metrics
MAX_KEPT_QUERY = 200  # bytes; a longer one is parsed each time
STOPPED = "the server stops, and its time for what is in flight is over; ask again"


class Request:
    """One HTTP request.

    Args:
        scope: ASGI's.
        path: the match of the path's pattern.
        max_body_bytes: a longer body, or one that unpacks to more, is refused.
        receive: ASGI's, or the whole body where the server has it already; it then cancels the
            task, and sets `hung_up`, when the client hangs up.
    """

    __slots__ = ("_max_body_bytes", "_receive", "arrived", "hung_up", "path", "scope")

    def __init__(
        self, scope: Scope, path: re.Match[str], max_body_bytes: int, receive: Receive | bytes
    ) -> None:
        self.scope = scope
        self.path = path
        self.arrived = time.monotonic()
        self.hung_up = False
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
        if isinstance(self._receive, bytes):
            body = self._receive
            if len(body) > self._max_body_bytes:
                raise too_long(self._max_body_bytes)
        else:
            body = await self._read(self._receive)
        encoding = self.header(b"content-encoding")
        if encoding is None:
            return body
        return await unpack_beside(body, encoding, self._max_body_bytes)

    def watched(self) -> "Watch":
        """Cancels what is inside when the client hangs up, and raises `Disconnected` then."""
        return Watch(self._extension(HANG_UP))

    async def _read(self, receive: Receive) -> bytes:
        arrived = self._extension(ARRIVED)
        body: bytes | None = None if arrived is None else arrived(self._max_body_bytes)
        return await read_body(self.scope, receive, self._max_body_bytes) if body is None else body

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

    def lines(self) -> list[tuple[bytes, bytes]]:
        """All headers."""
        length = b"%d" % len(self.body)
        own = [(b"content-type", self.media_type), (b"content-length", length)]
        return own + self.headers


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
        self.max_body_bytes = max_body_bytes
        self._answers = answers
        self._finished = finished

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._otherwise(scope, receive, send)
            return
        route, path = self.find(scope)
        if route is None:
            await self._other(scope, receive, send)
            return
        if path is None:
            method, allowed = scope["method"], route.method
            message = f"Method Not Allowed: {method} {scope['path']:.200}; allowed here: {allowed}"
            reply = Reply(dumps({"error": message}), 405, headers=[(b"allow", allowed.encode())])
            await _send(reply, scope, send)
            self.finish(scope, 405, time.monotonic())
            return
        request = Request(scope, path, self.max_body_bytes, receive)
        status = HUNG_UP
        try:
            answer = await self.answer(route, request)
            if answer is not None:
                status = answer.status
                await _send(answer, scope, send)
        finally:
            self.finish(scope, status, request.arrived)

    def find(self, scope: Scope) -> tuple[FastRoute | None, re.Match[str] | None]:
        """The short way of a request, and the match of its path: None for another method's."""
        found = None
        for route in self._routes:
            if match := route.pattern.fullmatch(scope["path"]):
                if route.method == scope["method"]:
                    return route, match
                found = route
        return found, None

    async def answer(self, route: FastRoute, request: Request) -> Reply | None:
        """What to answer on the short way; None to a client that hung up."""
        try:
            return await route.endpoint(request)
        except Disconnected:
            return None
        except asyncio.CancelledError:  # by the server: the client hung up, or its grace is over
            return None if request.hung_up else _stopped()
        except Exception as error:
            reply = route.failed(error)
            if reply.status == 500:
                logger.error("a request failed", exc_info=error)
            return reply

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.monotonic()
        status, started_to_send = 500, False
        limited = Limited(scope, receive, self.max_body_bytes)

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
            self.finish(scope, status, started)

    def finish(self, scope: Scope, status: int, started: float) -> None:
        """Counts and notes an answer."""
        self._answers[status] += 1
        if self._finished is not None:
            self._finished(scope, status, time.monotonic() - started)


def _stopped() -> Reply:
    return Reply(dumps({"error": STOPPED}), 503, headers=[(b"retry-after", b"1")])


async def _send(reply: Reply, scope: Scope, send: Send) -> None:
    headers = reply.lines()
    whole = scope.get("extensions", {}).get(WHOLE)
    if whole is not None:
        await whole(reply.status, headers, reply.body)
        return
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
