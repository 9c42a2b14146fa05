"""The calls of a gRPC server: each begins at its headers, and runs a function of a `Service`.

grpcio starts a unary handler when its message is complete. Every method here takes a stream of raw
bytes instead, which is the same on the wire: its handler starts at the headers, so that it can
count the call, refuse it, and limit the time and the memory that its message takes.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from traceback import clear_frames
from typing import Any, NoReturn
from urllib.parse import quote, unquote

import grpc
import grpc.aio
from google.protobuf.descriptor import Descriptor, MethodDescriptor, ServiceDescriptor

from keras_cnns_serve.core.limits import Budget, Claim
from keras_cnns_serve.errors import UNEXPECTED, QueueFullError, ServeError, code_name

from .arrivals import Arrivals
from .messages import memory_of, parser, unpacked

logger = logging.getLogger(__name__)

CLOCK_SLACK = 0.02  # seconds; the client's clock may end a call a moment before the server's
CANCEL_SECONDS = 0.005  # between the end of a cancelled call's stream and its task's cancellation
IDLE_SECONDS = 0.3  # after which a call that waits for a message is ended by a stop
MAX_DETAILS = 4000  # bytes; details travel in a header, and clients accept 8 KiB of headers
PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")

# A function from a request and its deadline (`time.monotonic()`, or None) to a response.
Unary = Callable[[Any, float | None], Awaitable[Any]]
# A function from requests, and a function that returns the deadline of a request that arrives now,
# to responses.
Streaming = Callable[[AsyncIterator[Any], Callable[[], float | None]], AsyncIterator[Any]]
# Called with a call's path, the client's address, the name of the status, and the seconds it took.
Finished = Callable[[str, str, str, float], None]
# Called with a call's path and its metadata.
Admit = Callable[[str, Iterable[tuple[str, str | bytes]]], None]


@dataclass(frozen=True)
class Service:
    """A gRPC service: functions by the names of its methods in the proto."""

    descriptor: ServiceDescriptor
    unary: Mapping[str, Unary]
    streaming: Mapping[str, Streaming] = field(default_factory=dict)  # methods that return a stream


class Calls(grpc.GenericRpcHandler):
    """The methods of services, and the calls of them that are in progress.

    Args:
        services: the methods that exist.
        max_message_bytes: of a message.
        budget: the memory that all calls may hold: half of it limits how many messages may be
            incomplete, and the other half how many streams may be open.
        timeout: seconds that a request may take, if the client's deadline is not sooner.
        finished: called after every call of a method that exists.
        admit: raises an error for a call that is not admitted; None: all are.
    """

    def __init__(
        self,
        services: Sequence[Service],
        max_message_bytes: int,
        budget: Budget,
        timeout: float | None,
        finished: Finished | None,
        admit: Admit | None,
    ) -> None:
        self.max_message_bytes = max_message_bytes
        self.budget = budget
        self.max_streams = max(2, budget.limit // max_message_bytes // 2)
        self.arrivals = Arrivals(self.max_streams, max_message_bytes)
        self.timeout = timeout
        self.finished = finished
        self.admit = admit
        self.streams = 0  # open
        self.active: set[asyncio.Task[Any]] = set()
        self.idle: dict[asyncio.Task[Any], float] = {}  # since when a stream waits for a message
        self.stopping = False
        self._handlers: dict[str, grpc.RpcMethodHandler] = {}
        for service in services:
            for method in service.descriptor.methods:
                path = f"/{service.descriptor.full_name}/{method.name}"
                if unary := service.unary.get(method.name):
                    handler = grpc.stream_unary_rpc_method_handler(self._unary(path, method, unary))
                elif streaming := service.streaming.get(method.name):
                    handler = grpc.stream_stream_rpc_method_handler(
                        self._streaming(path, method, streaming)
                    )
                else:
                    continue
                self._handlers[path] = handler

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Return the handler of a method, or None if there is no such method."""
        return self._handlers.get(handler_call_details.method)

    async def stop(self, end: float) -> None:
        """Let calls finish until `end` (`time.monotonic()`), then end the rest as UNAVAILABLE."""
        self.stopping = True
        while (now := time.monotonic()) < end:
            active = {task for task in self.active if not task.done()}
            if not active:
                break
            for task, since in [*self.idle.items(), *self.arrivals.since.items()]:
                if now - since > IDLE_SECONDS:
                    task.cancel()
            await asyncio.wait(active, timeout=min(0.05, end - now))
        for task in self.active:
            task.cancel()

    def _unary(self, path: str, method: MethodDescriptor, answer: Unary) -> Callable[..., Any]:
        parse, kind = parser(method), method.input_type

        async def handle(_: object, context: grpc.aio.ServicerContext) -> bytes:
            call = _Call(self, path, context)
            try:
                call.check()
                response = await answer(parse(await call.receive(kind)), call.deadline())
                content: bytes = response.SerializeToString()
                call.status = "OK"
                return content
            except BaseException as error:
                await call.fail(error)
            finally:
                call.finish()

        return handle

    def _streaming(
        self, path: str, method: MethodDescriptor, answer: Streaming
    ) -> Callable[..., Any]:
        parse, kind, takes_stream = parser(method), method.input_type, method.client_streaming

        async def handle(_: object, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
            call = _Call(self, path, context)
            try:
                call.check()
                receive = call.receive_all if takes_stream else call.receive_one
                requests = receive(parse, kind)
                async for response in answer(requests, call.deadline):
                    yield response.SerializeToString()
                call.status = "OK"
            except BaseException as error:
                await call.fail(error)
            finally:
                call.finish()

        return handle


class _Call:
    """A call of a method, and the status that it ends with."""

    def __init__(self, calls: Calls, path: str, context: grpc.aio.ServicerContext) -> None:
        self._calls, self._path, self._context = calls, path, context
        self._started = time.monotonic()
        self._claim = Claim(calls.budget)
        # At once: grpcio forgets it when the client cancels the call.
        self._client = _client_address(context.peer()) if calls.finished is not None else ""
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        calls.active.add(task)
        self.status = "CANCELLED"  # until it ends otherwise

    def check(self) -> None:
        """Raise an error if the call is not admitted."""
        if self._calls.admit is not None:
            self._calls.admit(self._path, self._context.invocation_metadata() or ())

    async def receive(self, kind: Descriptor) -> bytes:
        """Return the message of a call that has one.

        Raises:
            QueueFullError: other calls hold the memory that it takes.
            InputTooLargeError: no call may hold so much, or it has too many fields.
            asyncio.CancelledError: the message takes too long to arrive.
        """
        arrivals = self._calls.arrivals
        await arrivals.begin(self._task)
        try:
            message = await self._read()
        finally:
            arrivals.end(self._task)
        if message is None:
            raise ServeError("one message was expected, but none was sent")
        return await self._within_bounds(message, kind)

    async def receive_one(
        self, parse: Callable[[bytes], Any], kind: Descriptor
    ) -> AsyncIterator[Any]:
        """Yield the request of a call that has one; raise as `receive` does."""
        yield parse(await self.receive(kind))

    async def receive_all(
        self, parse: Callable[[bytes], Any], kind: Descriptor
    ) -> AsyncIterator[Any]:
        """Yield the requests of a call that has a stream of them; raise as `receive` does.

        A stream may be silent for as long as it likes, so its messages are not timed.
        """
        calls = self._calls
        if calls.streams >= calls.max_streams:
            raise QueueFullError(
                f"{calls.streams} streams are open, as many as the memory for their messages allows"
            )
        calls.streams += 1
        try:
            while (message := await self._read_next()) is not None:
                yield parse(await self._within_bounds(message, kind))
                self._claim.release()
        finally:
            calls.streams -= 1

    def deadline(self) -> float | None:
        """Return the client's deadline, or that of a request that begins now if it is sooner."""
        left, timeout = self._context.time_remaining(), self._calls.timeout
        if left is None:
            left = timeout
        elif timeout is not None:
            left = min(left, timeout)
        return None if left is None else time.monotonic() + left

    async def fail(self, error: BaseException) -> NoReturn:
        """End the call with the status of an error; raise what grpcio expects then."""
        trailers: tuple[tuple[str, str], ...] = ()
        clear_frames(error.__traceback__)  # messages, which would stay as long as the error does
        error = self._calls.arrivals.given_up.pop(self._task, error)
        if isinstance(error, asyncio.CancelledError) and self._calls.stopping:
            self.status, details = "UNAVAILABLE", "the server is stopping; try again"
        elif not isinstance(error, Exception):
            left = self._context.time_remaining()
            if left is not None and left < CLOCK_SLACK:
                self.status = "DEADLINE_EXCEEDED"
            raise error
        else:
            self.status, details = code_name(error), str(error)
            if isinstance(error, QueueFullError):
                trailers = (("grpc-retry-pushback-ms", f"{error.retry_after * 1e3:.0f}"),)
            elif not isinstance(error, ServeError):
                logger.error("a gRPC call failed", exc_info=error)
                details = UNEXPECTED
        try:
            await self._context.abort(grpc.StatusCode[self.status], _shortened(details), trailers)
        except grpc.aio.InternalError:  # the client cancelled the call a moment before
            self.status = "CANCELLED"
        raise asyncio.CancelledError

    def finish(self) -> None:
        """Report the end of the call."""
        self._claim.release()
        self._calls.active.discard(self._task)
        self._calls.arrivals.given_up.pop(self._task, None)
        if self._calls.finished is not None:
            seconds = time.monotonic() - self._started
            self._calls.finished(self._path, self._client, self.status, seconds)

    async def _within_bounds(self, message: bytes, kind: Descriptor) -> bytes:
        """Return a message unpacked, once the memory that it takes is claimed."""
        limit = self._calls.max_message_bytes
        message = await unpacked(message, limit, self._claim, self.deadline())
        self._claim.add(memory_of(message, kind))
        return message

    async def _read_next(self) -> bytes | None:
        idle = self._calls.idle
        idle[self._task] = time.monotonic()
        try:
            return await self._read()
        finally:
            del idle[self._task]

    async def _read(self) -> bytes | None:
        message: bytes = await self._context.read()
        if message is not grpc.aio.EOF:
            return message
        # A call that is cancelled reads the end, too, a moment before its task is cancelled.
        await asyncio.sleep(CANCEL_SECONDS)
        return None


@lru_cache(4096)
def _client_address(peer: str) -> str:
    """Return 127.0.0.1 of ipv4:127.0.0.1:5000, and ::1 of ipv6:%5B::1%5D:5000."""
    return unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]")


def _shortened(details: str) -> str:
    """Return what fits into a header, in which a character may take twelve bytes."""
    details = details[:MAX_DETAILS]
    while len(quote(details, PRINTABLE, errors="replace")) > MAX_DETAILS:
        details = details[: len(details) // 2]
    return details
