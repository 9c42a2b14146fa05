"""The calls of a gRPC server, which run the functions of a `Service`.

grpcio starts a unary handler only when its message is complete, but the handler of a stream as soon
as the headers have arrived. Here, all methods are therefore declared as streams of raw bytes, which
makes no difference on the wire. The handler can thus count or reject a call, and limit the time and
memory of its message.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from traceback import clear_frames
from typing import Any, NoReturn
from urllib.parse import quote

import grpc
import grpc.aio
from google.protobuf.descriptor import Descriptor, MethodDescriptor, ServiceDescriptor

from keras_cnns_serve.core.limits import Budget, Claim
from keras_cnns_serve.errors import (
    UNEXPECTED,
    DeadlineExceededError,
    QueueFullError,
    ServeError,
    code_name,
)

from .arrivals import Arrivals
from .guard import client_address
from .messages import COPIES, decompress_message, memory_of_async, parser
from .responses import MIN_CLAIMED_BYTES, Responses

logger = logging.getLogger(__name__)

# Maximum seconds by which the deadline may pass earlier on the client's clock than on the server's.
_CLOCK_SLACK = 0.02
# Seconds to wait after the end of a stream, because its call may be about to be cancelled.
_CANCEL_SECONDS = 0.005
# When the server stops, calls that have waited for a message for more seconds than this are ended.
_IDLE_SECONDS = 0.3
# Seconds of waiting after which a stream can be ended to make room for another one.
QUIET_SECONDS = 1.0
MAX_STREAMS = 1000  # maximum number of open streams of all kinds
STREAM_BYTES = 2**15  # memory of an open stream that reads a single message
# Maximum number of bytes of a status's details. They are sent in a header, and clients accept 8 KiB
# of headers.
_MAX_DETAILS = 4000
_PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")

# A function that takes a request and its deadline (`time.monotonic()`, or None), and returns the
# response.
_Unary = Callable[[Any, float | None], Awaitable[Any]]
# A function that takes the requests of a stream, and a function for the deadline of a request that
# arrives now. It yields the responses.
_Streaming = Callable[[AsyncIterator[Any], Callable[[], float | None]], AsyncIterator[Any]]
# A function that takes the path of a call, the client's address, the name of the status, and the
# seconds that the call took.
OnResponse = Callable[[str, str, str, float], None]
# A function that takes the path and metadata of a call, and raises an error to reject the call.
Authorize = Callable[[str, Iterable[tuple[str, str | bytes]]], None]


@dataclass(frozen=True)
class Service:
    """A gRPC service: its descriptor, and its functions by the names of the methods."""

    descriptor: ServiceDescriptor
    unary: Mapping[str, _Unary]
    streaming: Mapping[str, _Streaming] = field(
        default_factory=dict
    )  # methods that return a stream


class Calls(grpc.GenericRpcHandler):
    """The methods of services, and the calls in progress.

    Args:
        services: the services.
        max_message_bytes: maximum size of a message, at most a quarter of the budget.
        budget: the memory budget of all calls. One half of it limits the number of incomplete
            messages, and the other half the number of open streams.
        timeout: maximum seconds of a request; the client's deadline can be earlier.
        response_timeout: seconds within which a client must receive a response; long responses have
            more time.
        on_response: called after each call of an existing method.
        authorize: raises an error to reject a call; None: all calls are permitted.
    """

    def __init__(
        self,
        services: Sequence[Service],
        max_message_bytes: int,
        budget: Budget,
        timeout: float | None,
        response_timeout: float,
        on_response: OnResponse | None,
        authorize: Authorize | None,
    ) -> None:
        self.max_message_bytes = max_message_bytes
        self.budget = budget
        count = budget.limit // max_message_bytes // 2
        self.arrivals = Arrivals(count, max_message_bytes, budget)
        self.responses = Responses(budget, response_timeout)
        self.timeout = timeout
        self.on_response = on_response
        self.authorize = authorize
        self.streams: dict[asyncio.Task[Any], Claim] = {}  # memory of each open stream
        self.active: set[asyncio.Task[Any]] = set()
        # The times at which waiting streams began to wait. An `idle` stream waits for a request of
        # its client. A `quiet` stream, such as a health watch, waits until there is something to
        # send.
        self.idle: dict[asyncio.Task[Any], float] = {}
        self.quiet: dict[asyncio.Task[Any], float] = {}
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
        """Return the handler of a method, or None if the method does not exist."""
        return self._handlers.get(handler_call_details.method)

    async def stop(self, end: float) -> None:
        """Let calls finish until `end` (`time.monotonic()`), and end the rest with UNAVAILABLE."""
        self.stopping = True
        while (now := time.monotonic()) < end:
            active = {task for task in self.active if not task.done()}
            if not active:
                break
            for task, since in [*self.idle.items(), *self.arrivals.started.items()]:
                if now - since > _IDLE_SECONDS:
                    task.cancel()
            await asyncio.wait(active, timeout=min(0.05, end - now))
        for task in self.active:
            task.cancel()

    def open_stream(self, task: asyncio.Task[Any], client_streaming: bool) -> None:
        """Register a stream; if necessary, end another stream that is waiting, to make room.

        Raises:
            QueueFullError: too many streams are open.
        """
        size = self.max_message_bytes if client_streaming else STREAM_BYTES
        while True:
            try:
                self.streams[task] = self._claim_stream(size)
                break
            except QueueFullError:
                if not self._end_waiting_stream():
                    raise
        if not client_streaming:
            self.quiet[task] = time.monotonic()

    def close_stream(self, task: asyncio.Task[Any]) -> None:
        """Unregister a stream."""
        if claim := self.streams.pop(task, None):
            claim.release()
            self.quiet.pop(task, None)
            self.idle.pop(task, None)

    def _claim_stream(self, size: int) -> Claim:
        used = sum(claim.size for claim in self.streams.values())
        if len(self.streams) >= MAX_STREAMS or used + size > self.budget.limit // 2:
            raise QueueFullError(
                f"{len(self.streams)} streams are open, and the server has no room for another one"
            )
        return self.budget.claim(size)

    def _end_waiting_stream(self) -> bool:
        """End a stream that has waited long enough; return False if there is none.

        It is the stream that has waited longest, or one whose client does not receive its response.
        """
        waits = {**self.quiet, **self.idle}
        task = min(waits, key=waits.__getitem__, default=None)
        if task is not None and time.monotonic() - waits[task] >= QUIET_SECONDS:
            self.arrivals.aborted[task] = QueueFullError(
                "this stream was ended, because another one was opened and this one had been "
                "idle longest"
            )
            task.cancel()
        elif (task := self.responses.end_blocked(self.streams)) is None:
            return False
        self.close_stream(task)
        return True

    def _unary(self, path: str, method: MethodDescriptor, function: _Unary) -> Callable[..., Any]:
        parse, kind = parser(method), method.input_type

        async def handle(_: object, context: grpc.aio.ServicerContext) -> bytes:
            call = _Call(self, path, context)
            try:
                call.check()
                # Do not assign messages to names: an error would keep this frame alive, and with it
                # the messages.
                return call.respond(await function(parse(await call.receive(kind)), call.deadline))
            except BaseException as error:
                await call.fail(error)
            finally:
                call.finish()

        return handle

    def _streaming(
        self, path: str, method: MethodDescriptor, function: _Streaming
    ) -> Callable[..., Any]:
        parse, kind, client_streaming = parser(method), method.input_type, method.client_streaming

        async def handle(_: object, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
            call = _Call(self, path, context)
            response: Any = None
            content = b""
            try:
                call.check()
                call.open_stream(client_streaming)
                receive = call.receive_all if client_streaming else call.receive_one
                requests = receive(parse, kind)
                async for response in function(requests, call.deadline_from_now):
                    content = response.SerializeToString()
                    with call.sending(content):
                        yield content
                call.status = "OK"
            except BaseException as error:
                response, content = None, b""  # an error would otherwise keep the messages alive
                await call.fail(error)
            finally:
                call.finish()

        return handle


class _Call:
    """A call of a method, and its status."""

    def __init__(self, calls: Calls, path: str, context: grpc.aio.ServicerContext) -> None:
        self._calls, self._path, self._context = calls, path, context
        self._started = time.monotonic()
        self._claim = Claim(calls.budget)
        self._peer: str = context.peer()  # read now, because it is unknown after a cancellation
        self.deadline = self.deadline_from_now()
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        calls.active.add(task)
        self.status = "CANCELLED"  # applies unless another status is set before the end

    def check(self) -> None:
        """Raise an error if the call is not authorized."""
        if self._calls.authorize is not None:
            self._calls.authorize(self._path, self._context.invocation_metadata() or ())

    async def receive(self, kind: Descriptor) -> bytes:
        """Return the message of a call with a single request.

        Raises:
            QueueFullError: there is not enough free memory.
            DeadlineExceededError: the deadline passed before the message was complete.
            InputTooLargeError: the message needs too much memory or has too many fields.
            asyncio.CancelledError: the message arrives too slowly.
        """
        arrivals = self._calls.arrivals
        await arrivals.begin(self._task)
        try:
            message = await self._read()
        finally:
            arrivals.end(self._task)
        if message is None:
            raise ServeError("one message was expected, but none was sent")
        if self.deadline is not None and self.deadline <= time.monotonic():
            raise DeadlineExceededError("the request's deadline passed before its message arrived")
        return await self._decompress(message, kind, self.deadline)

    async def receive_one(
        self, parse: Callable[[bytes], Any], kind: Descriptor
    ) -> AsyncIterator[Any]:
        """Yield the only request of a call; the errors are those of `receive`."""
        yield parse(await self.receive(kind))

    async def receive_all(
        self, parse: Callable[[bytes], Any], kind: Descriptor
    ) -> AsyncIterator[Any]:
        """Yield the requests of a client-streaming call; the errors are those of `receive`.

        Messages of a stream have no time limit, because a stream may be idle.
        """
        while (message := await self._read_next()) is not None:
            yield parse(await self._decompress(message, kind, self.deadline_from_now()))
            self._claim.release()
            self._claim = Claim(self._calls.budget)

    def open_stream(self, client_streaming: bool) -> None:
        """Register the call as a stream; the errors are those of `Calls.open_stream`."""
        self._calls.open_stream(self._task, client_streaming)

    def respond(self, response: Any) -> bytes:
        """Return the serialized response, for which memory is claimed until the client has it.

        Raises:
            QueueFullError: there is not enough free memory.
        """
        content: bytes = response.SerializeToString()
        if len(content) > MIN_CLAIMED_BYTES:
            self._calls.responses.begin(self._task, self._peer, len(content))
            self._task.add_done_callback(self._calls.responses.end)
        self.status = "OK"
        return content

    @contextlib.contextmanager
    def sending(self, content: bytes) -> Iterator[None]:
        """Register a stream's response while it is sent; errors are those of `Responses.begin`."""
        calls, task = self._calls, self._task
        quiet = calls.quiet.pop(task, None) is not None
        calls.responses.begin(task, self._peer, len(content))
        try:
            yield
        finally:
            calls.responses.end(task)
        if quiet:
            calls.quiet[task] = time.monotonic()

    def deadline_from_now(self) -> float | None:
        """Return the deadline of a request that begins now, which the client can shorten."""
        remaining, timeout = self._context.time_remaining(), self._calls.timeout
        if remaining is None:
            remaining = timeout
        elif timeout is not None:
            remaining = min(remaining, timeout)
        return None if remaining is None else time.monotonic() + remaining

    async def fail(self, error: BaseException) -> NoReturn:
        """End the call with the status of an error; raise the exception that grpcio expects."""
        trailers: tuple[tuple[str, str], ...] = ()
        clear_frames(error.__traceback__)  # free the messages that the error would keep alive
        if not isinstance(error, GeneratorExit):  # raised if grpcio has ended the call
            error = self._calls.arrivals.aborted.pop(self._task, error)
        if isinstance(error, asyncio.CancelledError) and self._calls.stopping:
            self.status, details = "UNAVAILABLE", "the server is stopping; try again"
        elif not isinstance(error, Exception):
            remaining = self._context.time_remaining()
            if remaining is not None and remaining < _CLOCK_SLACK:
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
        except grpc.aio.InternalError:  # the client has just cancelled the call
            self.status = "CANCELLED"
        raise asyncio.CancelledError

    def finish(self) -> None:
        """Release the call's memory and report its end."""
        self._claim.release()
        self._calls.close_stream(self._task)
        self._calls.active.discard(self._task)
        self._calls.arrivals.aborted.pop(self._task, None)
        if self._calls.on_response is not None:
            seconds = time.monotonic() - self._started
            client, _ = client_address(self._peer)
            self._calls.on_response(self._path, client, self.status, seconds)

    async def _decompress(self, message: bytes, kind: Descriptor, deadline: float | None) -> bytes:
        """Return a decompressed message after claiming the memory for parsing it."""
        limit = self._calls.max_message_bytes
        message = await decompress_message(message, limit, self._claim, deadline)
        claimed = COPIES * len(message)
        self._claim.add(claimed)  # claimed first, because counting the fields may take time
        self._claim.add(await memory_of_async(message, kind, deadline) - claimed)
        return message

    async def _read_next(self) -> bytes | None:
        idle = self._calls.idle
        idle[self._task] = time.monotonic()
        try:
            return await self._read()
        finally:
            idle.pop(self._task, None)  # absent if the stream was ended to make room

    async def _read(self) -> bytes | None:
        message: bytes = await self._context.read()
        if message is not grpc.aio.EOF:
            return message
        # A cancelled call also reads EOF, shortly before its task is cancelled.
        await asyncio.sleep(_CANCEL_SECONDS)
        return None


def _shortened(details: str) -> str:
    """Shorten details to fit into a header, where a character takes up to 12 bytes."""
    details = details[:_MAX_DETAILS]
    while len(quote(details, _PRINTABLE, errors="replace")) > _MAX_DETAILS:
        details = details[: len(details) // 2]
    return details
