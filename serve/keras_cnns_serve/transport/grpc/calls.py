"""The calls of a gRPC server: each begins at its headers, and runs a function of a `Service`.

grpcio starts a unary handler when its message is complete. Every method here takes a stream of raw
bytes instead, which is the same on the wire: its handler starts at the headers, so that it can
count the call, refuse it, and limit the time in which its message arrives.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NoReturn
from urllib.parse import quote, unquote

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from keras_cnns_serve.core.limits import seconds_for
from keras_cnns_serve.errors import (
    UNEXPECTED,
    InvalidInputError,
    QueueFullError,
    ServeError,
    TooSlowError,
    code_name,
)

logger = logging.getLogger(__name__)

CLOCK_SLACK = 0.02  # seconds; the client's clock may end a call a moment before the server's
CANCEL_SECONDS = 0.005  # between the end of a cancelled call's stream and its task's cancellation
IDLE_SECONDS = 0.3  # after which a stream that waits for its next message is ended by a stop
MAX_DETAILS = 4000  # bytes; details travel in a header, and clients accept 8 KiB of headers
PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")

# A function from a request and its deadline (`time.monotonic()`, or None) to a response.
Unary = Callable[[Any, float | None], Awaitable[Any]]
# A function from requests, and a function that returns the deadline of a request that arrives now,
# to responses.
Streaming = Callable[[AsyncIterator[Any], Callable[[], float | None]], AsyncIterator[Any]]
# Called with a call's path, the client's address, the name of the status, and the seconds it took.
Finished = Callable[[str, str, str, float], None]


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
        max_message_bytes: of a message; it limits the time in which one arrives.
        max_unfinished: calls of one client whose message has not arrived, or, where the client
            sends a stream, has not ended.
        timeout: seconds that a request may take, if the client's deadline is not sooner.
        finished: called after every call of a method that exists.
    """

    def __init__(
        self,
        services: Sequence[Service],
        max_message_bytes: int,
        max_unfinished: int,
        timeout: float | None,
        finished: Finished | None,
    ) -> None:
        self.arrival_seconds = seconds_for(max_message_bytes)
        self.max_unfinished = max_unfinished
        self.timeout = timeout
        self.finished = finished
        self.unfinished: dict[str, int] = {}  # by the client's address
        self.active: set[asyncio.Task[Any]] = set()
        # When each task began to wait for its message: the only one of a call, or one of a stream.
        self.arriving: dict[asyncio.Task[Any], float] = {}
        self.idle: dict[asyncio.Task[Any], float] = {}
        self.late: set[asyncio.Task[Any]] = set()  # whose message has not come in time
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

    async def watch_arrivals(self) -> None:
        """End calls whose message takes too long to arrive, for ever.

        One look at all of them now and then is cheaper than a timer for each call.
        """
        while True:
            await asyncio.sleep(min(1.0, self.arrival_seconds / 4))
            latest = time.monotonic() - self.arrival_seconds
            for task in [task for task, began in self.arriving.items() if began < latest]:
                self.late.add(task)
                task.cancel()

    async def stop(self, end: float) -> None:
        """Let calls finish until `end` (`time.monotonic()`), then end the rest as UNAVAILABLE."""
        self.stopping = True
        while (now := time.monotonic()) < end:
            active = {task for task in self.active if not task.done()}
            if not active:
                break
            for task, since in list(self.idle.items()):
                if now - since > IDLE_SECONDS:
                    task.cancel()
            await asyncio.wait(active, timeout=min(0.05, end - now))
        for task in self.active:
            task.cancel()

    def _unary(self, path: str, method: MethodDescriptor, answer: Unary) -> Callable[..., Any]:
        parse = _parser(method)

        async def handle(_: object, context: grpc.aio.ServicerContext) -> bytes:
            call = _Call(self, path, context)
            try:
                response = await answer(parse(await call.receive()), call.deadline())
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
        parse, takes_stream = _parser(method), method.client_streaming

        async def handle(_: object, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
            call = _Call(self, path, context)
            try:
                requests = call.receive_all(parse) if takes_stream else call.receive_one(parse)
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
        self._client = _client_address(context.peer())
        self._counted = False  # among its client's unfinished calls
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        calls.active.add(task)
        self.status = "CANCELLED"  # until it ends otherwise

    async def receive(self) -> bytes:
        """Return the message of a call that has one.

        Raises:
            QueueFullError: the client has too many unfinished calls.
            asyncio.CancelledError: the message takes too long to arrive.
        """
        self._count()
        message = await self._read(self._calls.arriving)
        self._uncount()
        if message is None:
            raise ServeError("one message was expected, but none was sent")
        return message

    async def receive_one(self, parse: Callable[[bytes], Any]) -> AsyncIterator[Any]:
        """Yield the request of a call that has one; raise as `receive` does."""
        yield parse(await self.receive())

    async def receive_all(self, parse: Callable[[bytes], Any]) -> AsyncIterator[Any]:
        """Yield the requests of a call that has a stream of them; raise as `receive` does.

        A stream may be silent for as long as it likes, so its messages are not timed.
        """
        self._count()
        while (message := await self._read(self._calls.idle)) is not None:
            yield parse(message)

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
        if self._task in self._calls.late:
            seconds = self._calls.arrival_seconds
            error = TooSlowError(
                f"the message comes too slowly: it was not complete after {seconds:.1f} seconds"
            )
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
        self._uncount()
        self._calls.active.discard(self._task)
        self._calls.late.discard(self._task)
        if self._calls.finished is not None:
            seconds = time.monotonic() - self._started
            self._calls.finished(self._path, self._client, self.status, seconds)

    async def _read(self, waiting: dict[asyncio.Task[Any], float]) -> bytes | None:
        waiting[self._task] = time.monotonic()
        try:
            message: bytes = await self._context.read()
        finally:
            del waiting[self._task]
        if message is not grpc.aio.EOF:
            return message
        # A call that is cancelled reads the end, too, a moment before its task is cancelled.
        await asyncio.sleep(CANCEL_SECONDS)
        return None

    def _count(self) -> None:
        count = self._calls.unfinished.get(self._client, 0)
        if count >= self._calls.max_unfinished:
            raise QueueFullError(f"{count} calls of this client are not complete")
        self._calls.unfinished[self._client] = count + 1
        self._counted = True

    def _uncount(self) -> None:
        if self._counted:
            self._counted = False
            self._calls.unfinished[self._client] -= 1
            if not self._calls.unfinished[self._client]:
                del self._calls.unfinished[self._client]


def _parser(method: MethodDescriptor) -> Callable[[bytes], Any]:
    from_string = GetMessageClass(method.input_type).FromString

    def parse(message: bytes) -> Any:
        try:
            return from_string(message)
        except DecodeError as error:
            raise InvalidInputError(f"the message cannot be parsed: {error}") from error

    return parse


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
