"""The body of an HTTP request: its length, its memory, and its time."""

import asyncio
import contextlib
import time
from collections.abc import Generator
from types import coroutine
from typing import Any

from starlette.types import Message, Receive

from keras_cnns_serve.core.limits import BODY_SECONDS, COPIES, MIN_BYTES_PER_SECOND, Claim
from keras_cnns_serve.errors import (
    DeadlineExceededError,
    InputTooLargeError,
    ServeError,
    TooSlowError,
)

DRAIN_SECONDS = 2  # for the rest of a body that is refused: before the answer, and after it


class Disconnected(Exception):  # noqa: N818 - it is an event
    """The client hung up before its request was complete or answered."""


class Limited:
    """ASGI's receive, for a body of limited length and memory, in limited time.

    Args:
        receive: ASGI's.
        max_bytes: A longer body is refused, before it is read where its length is declared.
        declared: The header Content-Length, 0 without it.
        claim: Grows with the body, or to its declared length before it is read.
        deadline: The `time.monotonic()` at which the request's time is over, or None.
        name: What the body is, for errors.
        asks: Whether the client asks (Expect: 100-continue) before it sends the body; then it is
            not asked for a body that is refused.

    Raises:
        InputTooLargeError: The body is longer.
        QueueFullError: The budget has no room for it.
        TooSlowError: It takes longer than this server waits for a body.
        DeadlineExceededError: It takes longer than the request has time.
    """

    def __init__(
        self,
        receive: Receive,
        max_bytes: int,
        declared: int,
        claim: Claim,
        deadline: float | None = None,
        name: str = "body",
        asks: bool = False,
    ) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._declared = declared
        self._claim = claim
        self._deadline = deadline
        self._name = name
        self._asks = asks
        self._read = 0
        self._claimed = 0  # bytes of the body
        self._complete = False
        # A body may pause for BODY_SECONDS, and must come at the slowest rate beside that.
        self._end = time.monotonic() + BODY_SECONDS

    async def __call__(self) -> Message:
        """Return the next part of the body."""
        try:
            if not self._read:
                self._check(self._declared)
            message = await self._next()
            size = len(message.get("body", b""))
            self._read += size
            self._check(self._read)
        except (TooSlowError, DeadlineExceededError):
            raise
        except ServeError:
            if self._read or not self._asks:
                await drain(self._receive, self._max_bytes)
            raise
        if not self._complete:
            now = time.monotonic()
            self._end = min(now + BODY_SECONDS, self._end + size / MIN_BYTES_PER_SECOND)
        return message

    def _check(self, size: int) -> None:
        if size > self._max_bytes:
            raise InputTooLargeError(f"the {self._name} has more than {self._max_bytes:,} bytes")
        if size > self._claimed:
            self._claim.add(COPIES * (size - self._claimed))
            self._claimed = size

    async def _next(self) -> Message:
        if self._complete:  # what comes now is that the client hangs up, at any time
            return await self._receive()
        waiting = self._receive().__await__()
        try:
            future = next(waiting)
        except StopIteration as arrived:  # as nearly always: it costs no timer
            message: Message = arrived.value
        else:
            end = self._end if self._deadline is None else min(self._end, self._deadline)
            try:
                async with asyncio.timeout(end - time.monotonic()):
                    message = await _rest(future, waiting)
            except TimeoutError:
                raise self._late(end) from None
        self._complete = not message.get("more_body", False)
        return message

    def _late(self, end: float) -> ServeError:
        so_far = f"{self._read:,} bytes so far"
        if end == self._deadline:
            return DeadlineExceededError(f"the request's time was over before its body: {so_far}")
        return TooSlowError(f"the {self._name} comes too slowly: {so_far}")


@coroutine
def _rest(future: Any, waiting: Generator[Any, Any, Message]) -> Generator[Any, Any, Message]:
    """Await what has been begun with `future`, its first step."""
    try:
        yield future
    except BaseException as error:
        waiting.throw(error)
        raise
    return (yield from waiting)


async def read_body(limited: Limited) -> bytes:
    """Return the body as it came; raise as `Limited` does.

    Raises:
        Disconnected: The client hung up.
    """
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
