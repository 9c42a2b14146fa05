"""The calls of a gRPC server: each begins at its headers, and runs a function of a `Service`.

grpcio starts a unary handler when its message is complete. Every method here takes a stream of raw
bytes instead, which is the same on the wire: its handler starts at the headers, so that it can
count the call, refuse it, and limit the time and the memory that its message takes.
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

from .answers import LONG, Answers
from .arrivals import Arrivals
from .guard import client_address
from .messages import COPIES, memory_beside, parser, unpacked

logger = logging.getLogger(__name__)

CLOCK_SLACK = 0.02  # seconds; the client's clock may end a call a moment before the server's
CANCEL_SECONDS = 0.005  # between the end of a cancelled call's stream and its task's cancellation
IDLE_SECONDS = 0.3  # after which a call that waits for a message is ended by a stop
QUIET_SECONDS = 1.0  # after which a stream that waits may be ended for another
MAX_STREAMS = 1000  # open, of all kinds
STREAM_BYTES = 2**15  # that an open stream takes which reads one message alone
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
        max_message_bytes: of a message, and at most a quarter of the budget.
        budget: the memory that all calls may hold; half of it limits how many messages may be
            incomplete, and half of it how many streams may be open.
        timeout: seconds that a request may take, if the client's deadline is not sooner.
        answer_timeout: seconds in which a client must take an answer, and longer for long ones.
        finished: called after every call of a method that exists.
        admit: raises an error for a call that is not admitted; None: all are.
    """

    def __init__(
        self,
        services: Sequence[Service],
        max_message_bytes: int,
        budget: Budget,
        timeout: float | None,
        answer_timeout: float,
        finished: Finished | None,
        admit: Admit | None,
    ) -> None:
        self.max_message_bytes = max_message_bytes
        self.budget = budget
        count = budget.limit // max_message_bytes // 2
        self.arrivals = Arrivals(count, max_message_bytes, budget)
        self.answers = Answers(budget, answer_timeout)
        self.timeout = timeout
        self.finished = finished
        self.admit = admit
        self.streams: dict[asyncio.Task[Any], Claim] = {}  # open, and what each may take
        self.active: set[asyncio.Task[Any]] = set()
        self.idle: dict[asyncio.Task[Any], float] = {}  # since when a stream waits for a message
        self.quiet: dict[asyncio.Task[Any], float] = {}  # since when it has no more to answer
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

    def open_stream(self, task: asyncio.Task[Any], takes_stream: bool) -> None:
        """Count a stream; others that wait for their clients may be ended for it.

        Raises:
            QueueFullError: too many are open.
        """
        size = self.max_message_bytes if takes_stream else STREAM_BYTES
        while True:
            try:
                self.streams[task] = self._room_for_stream(size)
                break
            except QueueFullError:
                if not self._end_waiting_stream():
                    raise
        if not takes_stream:
            self.quiet[task] = time.monotonic()

    def close_stream(self, task: asyncio.Task[Any]) -> None:
        """Count a stream no longer."""
        if claim := self.streams.pop(task, None):
            claim.release()
            self.quiet.pop(task, None)
            self.idle.pop(task, None)

    def _room_for_stream(self, size: int) -> Claim:
        taken = sum(claim.size for claim in self.streams.values())
        if len(self.streams) >= MAX_STREAMS or taken + size > self.budget.limit // 2:
            raise QueueFullError(
                f"{len(self.streams)} streams are open, as many as the memory for their messages "
                "allows"
            )
        return self.budget.claim(size)

    def _end_waiting_stream(self) -> bool:
        """End the stream that has waited longest, and return whether there was one."""
        waits = {**self.quiet, **self.idle}
        task = min(waits, key=waits.__getitem__, default=None)
        if task is not None and time.monotonic() - waits[task] >= QUIET_SECONDS:
            self.arrivals.given_up[task] = QueueFullError(
                "the stream was ended for another one: it was the one that had been idle longest"
            )
            task.cancel()
        elif (task := self.answers.end_blocked(self.streams)) is None:
            return False
        self.close_stream(task)
        return True

    def _unary(self, path: str, method: MethodDescriptor, answer: Unary) -> Callable[..., Any]:
        parse, kind = parser(method), method.input_type

        async def handle(_: object, context: grpc.aio.ServicerContext) -> bytes:
            call = _Call(self, path, context)
            try:
                call.check()
                # No name for anything long: a frame lives as long as the error that it raised.
                return call.answer(await answer(parse(await call.receive(kind)), call.deadline))
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
            response: Any = None
            content = b""
            try:
                call.check()
                call.open_stream(takes_stream)
                receive = call.receive_all if takes_stream else call.receive_one
                requests = receive(parse, kind)
                async for response in answer(requests, call.deadline_from_now):
                    content = response.SerializeToString()
                    with call.sending(content):
                        yield content
                call.status = "OK"
            except BaseException as error:
                response, content = None, b""  # or they would live as long as the error
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
        self._peer: str = context.peer()  # at once: grpcio forgets it when the client cancels
        self.deadline = self.deadline_from_now()
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
            DeadlineExceededError: it was complete after the call's deadline.
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
        if self.deadline is not None and self.deadline <= time.monotonic():
            raise DeadlineExceededError("the request's time was over before its message was there")
        return await self._within_bounds(message, kind, self.deadline)

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
        while (message := await self._read_next()) is not None:
            yield parse(await self._within_bounds(message, kind, self.deadline_from_now()))
            self._claim.release()
            self._claim = Claim(self._calls.budget)

    def open_stream(self, takes_stream: bool) -> None:
        """Count the call as a stream; raise as `Calls.open_stream` does."""
        self._calls.open_stream(self._task, takes_stream)

    def answer(self, response: Any) -> bytes:
        """Return the content of the call's answer, which counts until the client has taken it.

        Raises:
            QueueFullError: the budget has no room for it.
        """
        content: bytes = response.SerializeToString()
        if len(content) > LONG:
            self._calls.answers.begin(self._task, self._peer, len(content))
            self._task.add_done_callback(self._calls.answers.end)
        self.status = "OK"
        return content

    @contextlib.contextmanager
    def sending(self, content: bytes) -> Iterator[None]:
        """Count an answer of a stream while it is sent; raise as `Answers.begin` does."""
        calls, task = self._calls, self._task
        quiet = calls.quiet.pop(task, None) is not None
        calls.answers.begin(task, self._peer, len(content))
        try:
            yield
        finally:
            calls.answers.end(task)
        if quiet:
            calls.quiet[task] = time.monotonic()

    def deadline_from_now(self) -> float | None:
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
        if not isinstance(error, GeneratorExit):  # grpcio has ended the call
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
        self._calls.close_stream(self._task)
        self._calls.active.discard(self._task)
        self._calls.arrivals.given_up.pop(self._task, None)
        if self._calls.finished is not None:
            seconds = time.monotonic() - self._started
            client, _ = client_address(self._peer)
            self._calls.finished(self._path, client, self.status, seconds)

    async def _within_bounds(
        self, message: bytes, kind: Descriptor, deadline: float | None
    ) -> bytes:
        """Return a message unpacked, once the memory that it takes is claimed."""
        limit = self._calls.max_message_bytes
        message = await unpacked(message, limit, self._claim, deadline)
        held = COPIES * len(message)
        self._claim.add(held)  # before it may wait to be counted
        self._claim.add(await memory_beside(message, kind, deadline) - held)
        return message

    async def _read_next(self) -> bytes | None:
        idle = self._calls.idle
        idle[self._task] = time.monotonic()
        try:
            return await self._read()
        finally:
            idle.pop(self._task, None)  # it may have been ended for another stream

    async def _read(self) -> bytes | None:
        message: bytes = await self._context.read()
        if message is not grpc.aio.EOF:
            return message
        # A call that is cancelled reads the end, too, a moment before its task is cancelled.
        await asyncio.sleep(CANCEL_SECONDS)
        return None


def _shortened(details: str) -> str:
    """Return what fits into a header, in which a character may take twelve bytes."""
    details = details[:MAX_DETAILS]
    while len(quote(details, PRINTABLE, errors="replace")) > MAX_DETAILS:
        details = details[: len(details) // 2]
    return details
