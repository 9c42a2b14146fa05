"""The ASGI application: fast routes without middleware, and Starlette for all other requests.

The endpoint of a fast route takes a `Request` and returns a `Reply`. If it raises an error, the
route's `error_reply` translates the error into a response of its protocol.
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
from keras_cnns_serve.errors import InvalidInputError

from .body import Disconnected, LimitedReceive, read_body

logger = logging.getLogger(__name__)

_CLIENT_DISCONNECTED = 499  # nginx's status for logs and metrics
_WATCH_SECONDS = 0.05  # delay before a task begins to watch whether the client disconnects
# Maximum size of a cached query or path; longer ones are parsed for each request.
_MAX_CACHED_BYTES = 200
# Maximum number of fields in a query. Without this limit, a query could fill the head of a
# request with fields, and parsing them would take a tenth of a second.
_MAX_QUERY_FIELDS = 64
_STOPPED = "the server is stopping and its grace period is over; try again"
_CLOSE = (b"connection", b"close")
_NO_SNIFFING = (b"x-content-type-options", b"nosniff")  # forbids browsers to guess the type


class Request:
    """An HTTP request.

    Args:
        scope: ASGI's scope.
        path: the match of the route's pattern.
        max_body_bytes: maximum length of the body, both before and after decompression.
        receive: ASGI's receive.
        claim: the claim of memory, which is held until the request is answered.
    """

    __slots__ = (
        "_fields",
        "_headers",
        "_max_body_bytes",
        "_receive",
        "arrived",
        "claim",
        "path",
        "scope",
    )

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
        self._fields: dict[str, list[str]] | None = None  # the parsed query
        self._receive = receive
        self._max_body_bytes = max_body_bytes
        self.claim = claim

    def header(self, name: bytes) -> str | None:
        """Return the value of a header; `name` must be in lower case."""
        value = self._headers.get(name)
        return None if value is None else str(value, "latin-1")

    def query(self, name: str) -> str | None:
        """Return the first value of a query parameter, or None if the query does not have it.

        Raises:
            InvalidInputError: the query has too many fields.
        """
        if self._fields is None:
            text: bytes = self.scope["query_string"]
            parse = _cached_query if len(text) < _MAX_CACHED_BYTES else _parse_query
            self._fields = parse(text)
        values = self._fields.get(name)
        return values[0] if values else None

    async def body(
        self, deadline: float | None = None, max_bytes: int | None = None, name: str = "body"
    ) -> bytes:
        """Return the whole body, decompressed.

        Args:
            deadline: `time.monotonic()` of the request's deadline, or None.
            max_bytes: maximum length, if it is smaller than `max_body_bytes`.
            name: "body" or "JSON", for errors.

        Raises:
            InputTooLargeError: the body is too long.
            QueueFullError: there is not enough free memory.
            TooSlowError: the body arrives too slowly.
            DeadlineExceededError: the deadline has passed.
            UnsupportedEncodingError: the Content-Encoding is not supported.
            InvalidInputError: the body cannot be decompressed.
            Disconnected: the client disconnected.
        """
        limit = self._max_body_bytes
        if max_bytes is not None and max_bytes < limit:
            limit = max_bytes
        else:
            name = "body"
        content_length = int(self._headers.get(b"content-length", 0))
        expects_continue = _expects_continue(self.scope)
        receive = LimitedReceive(
            self._receive, limit, content_length, self.claim, deadline, name, expects_continue
        )
        body = await read_body(receive)
        encoding = self._headers.get(b"content-encoding")
        if encoding is None:
            return body
        return await decompress_async(
            body, str(encoding, "latin-1"), limit, self.claim, name, deadline
        )

    def cancelled_on_disconnect(self) -> "_DisconnectWatch":
        """Return a context that cancels its task and raises `Disconnected` upon disconnection.

        The body must have been read.
        """
        return _DisconnectWatch(self._receive)


class _DisconnectWatch:
    """A context that cancels its task and raises `Disconnected` if the client disconnects.

    Args:
        receive: ASGI's receive, whose next message is the disconnection.
    """

    __slots__ = ("_disconnected", "_receive", "_task", "_timer", "_watcher")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._disconnected = False
        self._watcher: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        self._task = asyncio.current_task(loop)
        self._timer = loop.call_later(_WATCH_SECONDS, self._begin, loop)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        if self._disconnected and self._task is not None and kind in (None, asyncio.CancelledError):
            self._task.uncancel()
            raise Disconnected from None

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._watcher = loop.create_task(self._watch())

    async def _watch(self) -> None:
        message = await self._receive()
        if message["type"] == "http.disconnect" and self._task is not None:
            self._disconnected = True
            self._task.cancel()


def _parse_query(text: bytes) -> dict[str, list[str]]:
    if text.count(b"&") >= _MAX_QUERY_FIELDS:
        raise InvalidInputError(f"the query has more than {_MAX_QUERY_FIELDS} fields")
    return parse_qs(text.decode("latin-1"), keep_blank_values=True)


_cached_query = lru_cache(_parse_query)  # clients often send the same parameters


@dataclass(slots=True)
class Reply:
    """A response, before it is sent."""

    body: bytes
    status: int = 200
    media_type: bytes = b"application/json"
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)


_Endpoint = Callable[[Request], Awaitable[Reply]]


@dataclass(frozen=True)
class FastRoute:
    """A route that bypasses Starlette."""

    method: str
    pattern: re.Pattern[str]  # matched against the whole path
    endpoint: _Endpoint
    error_reply: Callable[[Exception], Reply]  # translates the errors of the endpoint


class App:
    """The ASGI application.

    Args:
        routes: the routes that bypass Starlette, the most frequent first.
        fallback: the application for all other requests.
        max_body_bytes: maximum length of a body.
        budget: the memory budget of all requests.
        answers: the number of responses by status, which this class updates.
        on_response: called after each response, with the scope, the status, and the seconds that
            the request took.
        draining: returns whether the server is stopping; if so, a connection ends after its
            response.
        authorize: returns the response to a rejected request, or None if the request is permitted.
        timeout: seconds within which the body of a request to `fallback` must arrive; None: no
            limit.
    """

    def __init__(
        self,
        routes: Sequence[FastRoute],
        fallback: ASGIApp,
        max_body_bytes: int,
        budget: Budget,
        answers: Counter[int],
        on_response: Callable[[Scope, int, float], None] | None = None,
        draining: Callable[[], bool] = lambda: False,
        authorize: Callable[[Scope], Reply | None] | None = None,
        timeout: float | None = None,
    ) -> None:
        self._routes = tuple(routes)
        self._fallback = fallback
        self._max_body_bytes = max_body_bytes
        self._budget = budget
        self._answers = answers
        self._on_response = on_response
        self._draining = draining
        self._authorize = authorize
        self._timeout = timeout
        self._cached_find = lru_cache(self._find)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._fallback(scope, receive, send)
            return
        if _expects_continue(scope):
            expecting = _ExpectContinue(receive, send)
            receive, send = expecting.receive, expecting.send
        if self._authorize is not None and (reply := self._authorize(scope)) is not None:
            await self._reply(scope, reply, send)
            return
        path: str = scope["path"]
        find = self._cached_find if len(path) < _MAX_CACHED_BYTES else self._find
        route, match = find(scope["method"], path)
        if route is None:
            await self._call_fallback(scope, receive, send)
            return
        if match is None:
            await self._reply(scope, _not_allowed(scope["method"], path, route.method), send)
            return
        claim = Claim(self._budget)
        request = Request(scope, match, self._max_body_bytes, receive, claim)
        status = _CLIENT_DISCONNECTED
        try:
            reply = await _answer(route, request)
            if reply is not None:
                status = reply.status
                await self._send(reply, send)
        finally:
            claim.release()
            self._finish(scope, status, request.arrived)

    def _find(self, method: str, path: str) -> tuple[FastRoute | None, re.Match[str] | None]:
        """Return the route and the match of its path.

        If the path fits a route but the method does not, only the match is None. If no route fits,
        both are None.
        """
        found = None
        for route in self._routes:
            if match := route.pattern.fullmatch(path):
                if route.method == method:
                    return route, match
                found = route
        return found, None

    async def _call_fallback(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.monotonic()
        status, started_to_send = 500, False
        content_length = int(_headers(scope).get(b"content-length", 0))
        deadline = None if self._timeout is None else started + self._timeout
        claim = Claim(self._budget)
        limited = LimitedReceive(
            receive,
            self._max_body_bytes,
            content_length,
            claim,
            deadline,
            expects_continue=_expects_continue(scope),
        )

        async def send_with_headers(message: Message) -> None:
            nonlocal status, started_to_send
            if message["type"] == "http.response.start":
                status, started_to_send = message["status"], True
                message["headers"] = self._add_headers([*message.get("headers", ())])
            await send(message)

        try:
            await self._fallback(scope, limited, send_with_headers)
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
        headers = self._add_headers(
            [(b"content-type", reply.media_type), (b"content-length", length), *reply.headers]
        )
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    def _add_headers(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        headers.append(_NO_SNIFFING)
        if self._draining() and _CLOSE not in headers:
            headers.append(_CLOSE)
        return headers

    def _finish(self, scope: Scope, status: int, started: float) -> None:
        self._answers[status] += 1
        if self._on_response is not None:
            self._on_response(scope, status, time.monotonic() - started)


class _ExpectContinue:
    """ASGI's receive and send for a client that has sent Expect: 100-continue.

    If the server did not request the body, the client may or may not send it, so the connection is
    closed after the response.
    """

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._continued = False

    async def receive(self) -> Message:
        self._continued = True
        return await self._receive()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and not self._continued:
            message["headers"] = [*message["headers"], _CLOSE]
        await self._send(message)


def _headers(scope: Scope) -> dict[bytes, bytes]:
    """Return a dict from the names of headers, in lower case, to their values.

    If a header is repeated, the dict has its first value.
    """
    return dict(reversed(scope["headers"]))


def _expects_continue(scope: Scope) -> bool:
    return scope.get("http_version") != "1.0" and any(
        name == b"expect" and value.lower() == b"100-continue" for name, value in scope["headers"]
    )


async def _answer(route: FastRoute, request: Request) -> Reply | None:
    """Return the response, or None if the client disconnected."""
    try:
        return await route.endpoint(request)
    except Disconnected:
        return None
    except asyncio.CancelledError:  # cancelled by the server at the end of its grace period
        return _stopped()
    except Exception as error:
        reply = route.error_reply(error)
        if reply.status == 500:
            logger.error("a request failed", exc_info=error)
        # The error and a future refer to each other, and the frames of the error refer to the body.
        # If the frames were not cleared, the body would stay in memory until the next garbage
        # collection.
        clear_frames(error.__traceback__)
        return reply


def _stopped() -> Reply:
    return Reply(dumps({"error": _STOPPED}), 503, headers=[(b"retry-after", b"1")])


def _not_allowed(method: str, path: str, allowed: str) -> Reply:
    message = f"Method Not Allowed: {method} {path:.200}; allowed here: {allowed}"
    return Reply(dumps({"error": message}), 405, headers=[(b"allow", allowed.encode())])
