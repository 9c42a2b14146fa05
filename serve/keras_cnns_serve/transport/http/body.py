"""Receive the body of an HTTP request within limits of length, memory and time."""

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

# Maximum seconds to receive the rest of a rejected body before the response is sent. After the
# response, the client has the same time again.
DRAIN_SECONDS = 2


class Disconnected(Exception):  # noqa: N818 - it is an event
    """The client disconnected before its request was complete or answered."""


class LimitedReceive:
    """ASGI's receive, with limits of the length, memory and time of the body.

    Args:
        receive: ASGI's receive.
        max_bytes: maximum length; a body with a larger Content-Length is not read at all.
        content_length: the value of the header Content-Length; 0 if there is no such header.
        claim: the claim of memory, which grows with the body. For a body with a Content-Length, all
            of the memory is claimed before the body is read.
        deadline: `time.monotonic()` of the request's deadline, or None.
        name: "body" or "JSON", for errors.
        expects_continue: whether the client has sent Expect: 100-continue. If so, the server does
            not request a body that it rejects.

    Raises:
        InputTooLargeError: the body is too long.
        QueueFullError: there is not enough free memory.
        TooSlowError: the body arrives too slowly.
        DeadlineExceededError: the deadline passed before the body was complete.
    """

    def __init__(
        self,
        receive: Receive,
        max_bytes: int,
        content_length: int,
        claim: Claim,
        deadline: float | None = None,
        name: str = "body",
        expects_continue: bool = False,
    ) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._content_length = content_length
        self._claim = claim
        self._deadline = deadline
        self._name = name
        self._expects_continue = expects_continue
        self._read = 0  # number of received bytes
        self._claimed = 0  # number of bytes for which memory is claimed
        self._complete = False
        # Apart from pauses of up to BODY_SECONDS, at least MIN_BYTES_PER_SECOND must arrive.
        self._end = time.monotonic() + BODY_SECONDS

    async def __call__(self) -> Message:
        """Return the next part of the body."""
        try:
            if not self._read:
                self._check(self._content_length)
            message = await self._next()
            size = len(message.get("body", b""))
            self._read += size
            self._check(self._read)
        except (TooSlowError, DeadlineExceededError):
            raise
        except ServeError:
            if self._read or not self._expects_continue:
                await _drain(self._receive, self._max_bytes)
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
        # After a complete body, the next message is the disconnection, which may come at any time.
        if self._complete:
            return await self._receive()
        waiting = self._receive().__await__()
        try:
            future = next(waiting)
        except StopIteration as arrived:  # the usual case, which needs no timer
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
            return DeadlineExceededError(
                f"the request's deadline passed before its body arrived: {so_far}"
            )
        return TooSlowError(f"the {self._name} arrives too slowly: {so_far}")


@coroutine
def _rest(future: Any, waiting: Generator[Any, Any, Message]) -> Generator[Any, Any, Message]:
    """Await the rest of a coroutine whose first step has yielded `future`."""
    try:
        yield future
    except BaseException as error:
        waiting.throw(error)
        raise
    return (yield from waiting)


async def read_body(receive: LimitedReceive) -> bytes:
    """Return the body.

    Raises:
        Disconnected: the client disconnected.
        Also the errors of `LimitedReceive`.
    """
    pieces = []
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise Disconnected
        pieces.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(pieces)  # if there is only one piece, join does not copy it


async def _drain(receive: Receive, max_bytes: int) -> None:
    """Discard the rest of a body for up to `DRAIN_SECONDS`, so that the client gets the response.

    Many clients read the response only after sending the body. If a connection with unread bytes is
    closed, it is reset, and the client loses the response.
    """
    drained = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            more = True
            while more and drained < max_bytes:
                message = await receive()
                drained += len(message.get("body", b""))
                more = message.get("more_body", False)
