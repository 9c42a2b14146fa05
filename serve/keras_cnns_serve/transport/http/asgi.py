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
from traceback import clear_frames
from types import TracebackType
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from keras_cnns_serve.core.compression import decompress_async
from keras_cnns_serve.core.json_text import dumps
from keras_cnns_serve.core.limits import Budget, Claim

from .body import Disconnected, Limited, read_body

logger = logging.getLogger(__name__)

HUNG_UP = 499  # the status, in logs and metrics, of a request whose client hung up
WATCH_SECONDS = 0.05  # of work before the client is watched: to watch costs a task
MAX_CACHED_BYTES = 200  # of a query or a path; longer ones are parsed each time
STOPPED = "the server is stopping and its grace period is over; try again"
CLOSE = (b"connection", b"close")
NO_SNIFFING = (b"x-content-type-options", b"nosniff")  # no browser takes an answer for a page


class Request:
    """One HTTP request.

    Args:
        scope: ASGI's.
        path: the match of the route's pattern.
        max_body_bytes: a longer body, or one that unpacks to more, is refused.
        receive: ASGI's.
        claim: the memory that the request holds, until it is answered.
    """

    __slots__ = ("_headers", "_max_body_bytes", "_receive", "arrived", "claim", "path", "scope")

    def __init__(
        self,
        scope: Scope,
        path: re.Match[str],
        max_body_bytes: int,
        receive: Receive,
        claim: Claim,
    ) -> None:
        self.scope = scope
        self.path = path
        self.arrived = time.monotonic()
        self._headers = _headers(scope)
        self._receive = receive
        self._max_body_bytes = max_body_bytes
        self.claim = claim

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

    async def body(
        self, deadline: float | None = None, max_bytes: int | None = None, name: str = "body"
    ) -> bytes:
        """Return the whole body, unpacked if it was packed by gzip.

        Args:
            deadline: The `time.monotonic()` at which the request's time is over, or None.
            max_bytes: The longest body, where it is less than any request's.
            name: What the body is, for errors.

        Raises:
            InputTooLargeError: it is longer than this server accepts.
            QueueFullError: other requests hold the memory that it takes.
            TooSlowError: it takes longer than this server waits.
            DeadlineExceededError: it takes longer than the request has time.
            UnsupportedEncodingError: it is packed in another way.
            InvalidInputError: it cannot be unpacked.
            Disconnected: the client hung up.
        """
        limit = self._max_body_bytes
        if max_bytes is not None and max_bytes < limit:
            limit = max_bytes
        else:
            name = "body"
        declared = int(self._headers.get(b"content-length", 0))
        asks = _asks(self.scope)
        limited = Limited(self._receive, limit, declared, self.claim, deadline, name, asks)
        body = await read_body(limited)
        encoding = self._headers.get(b"content-encoding")
        if encoding is None:
            return body
        return await decompress_async(
            body, str(encoding, "latin-1"), limit, self.claim, name, deadline
        )

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
        budget: the memory that all requests may hold.
        answers: counts every answer by its status.
        finished: called after every answer, with the scope, the status and the seconds it took.
        draining: whether the server stops: each answer is then the last on its connection.
        refusal: returns the answer to a request that is not admitted, or None; None: all are.
        timeout: seconds in which the body of a request to `otherwise` must come; None: any.
    """

    def __init__(
        self,
        routes: Sequence[FastRoute],
        otherwise: ASGIApp,
        max_body_bytes: int,
        budget: Budget,
        answers: Counter[int],
        finished: Callable[[Scope, int, float], None] | None = None,
        draining: Callable[[], bool] = lambda: False,
        refusal: Callable[[Scope], Reply | None] | None = None,
        timeout: float | None = None,
    ) -> None:
        self._routes = tuple(routes)
        self._otherwise = otherwise
        self._max_body_bytes = max_body_bytes
        self._budget = budget
        self._answers = answers
        self._finished = finished
        self._draining = draining
        self._refusal = refusal
        self._timeout = timeout
        self._cached_find = lru_cache(self._find)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._otherwise(scope, receive, send)
            return
        if _asks(scope):
            asking = _Asking(receive, send)
            receive, send = asking.receive, asking.send
        if self._refusal is not None and (reply := self._refusal(scope)) is not None:
            await self._reply(scope, reply, send)
            return
        path: str = scope["path"]
        find = self._cached_find if len(path) < MAX_CACHED_BYTES else self._find
        route, match = find(scope["method"], path)
        if route is None:
            await self._other(scope, receive, send)
            return
        if match is None:
            await self._reply(scope, _not_allowed(scope["method"], path, route.method), send)
            return
        claim = Claim(self._budget)
        request = Request(scope, match, self._max_body_bytes, receive, claim)
        status = HUNG_UP
        try:
            reply = await _answer(route, request)
            if reply is not None:
                status = reply.status
                await self._send(reply, send)
        finally:
            claim.release()
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
        declared = int(_headers(scope).get(b"content-length", 0))
        deadline = None if self._timeout is None else started + self._timeout
        claim = Claim(self._budget)
        limited = Limited(
            receive, self._max_body_bytes, declared, claim, deadline, asks=_asks(scope)
        )

        async def noted(message: Message) -> None:
            nonlocal status, started_to_send
            if message["type"] == "http.response.start":
                status, started_to_send = message["status"], True
                message["headers"] = self._with_ours([*message.get("headers", ())])
            await send(message)

        try:
            await self._otherwise(scope, limited, noted)
        except asyncio.CancelledError:
            if started_to_send:
                raise
            status = 503
            await self._send(_stopped(), send)
        finally:
            claim.release()
            self._finish(scope, status, started)

    async def _reply(self, scope: Scope, reply: Reply, send: Send) -> None:
        started = time.monotonic()
        await self._send(reply, send)
        self._finish(scope, reply.status, started)

    async def _send(self, reply: Reply, send: Send) -> None:
        length = b"%d" % len(reply.body)
        headers = self._with_ours(
            [(b"content-type", reply.media_type), (b"content-length", length), *reply.headers]
        )
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    def _with_ours(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        headers.append(NO_SNIFFING)
        if self._draining() and CLOSE not in headers:
            headers.append(CLOSE)
        return headers

    def _finish(self, scope: Scope, status: int, started: float) -> None:
        self._answers[status] += 1
        if self._finished is not None:
            self._finished(scope, status, time.monotonic() - started)


class _Asking:
    """ASGI's receive and send for a client that asks whether it should send its body.

    If it was not told to, nobody knows whether the body follows: the connection ends.
    """

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._continued = False

    async def receive(self) -> Message:
        self._continued = True
        return await self._receive()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and not self._continued:
            message["headers"] = [*message["headers"], CLOSE]
        await self._send(message)


def _headers(scope: Scope) -> dict[bytes, bytes]:
    """Return the headers by their names in lower case; of one that is repeated the first counts."""
    return dict(reversed(scope["headers"]))


def _asks(scope: Scope) -> bool:
    return any(name == b"expect" for name, _ in scope["headers"])


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
        # Futures and their errors refer to each other: the bodies in the frames would stay until
        # Python looks for such cycles.
        clear_frames(error.__traceback__)
        return reply


def _stopped() -> Reply:
    return Reply(dumps({"error": STOPPED}), 503, headers=[(b"retry-after", b"1")])


def _not_allowed(method: str, path: str, allowed: str) -> Reply:
    message = f"Method Not Allowed: {method} {path:.200}; allowed here: {allowed}"
    return Reply(dumps({"error": message}), 405, headers=[(b"allow", allowed.encode())])
