"""gRPC on the event loop that HTTP is on. It reads messages and maps errors; services translate."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from .errors import UNEXPECTED, InvalidInputError, QueueFullError, ServeError, code_name
from .server import AddressError

logger = logging.getLogger(__name__)

IN_THREAD = 20_000  # bytes; values of this length take longer to read than a thread to wake
SLACK = 0.02  # seconds; the client's clock may end a call a moment before ours would
MAX_DETAILS = 2000  # characters; they travel in a header, whose length is bounded

# From a request and its deadline, `time.monotonic()` or None, to a response.
Unary = Callable[[Any, float | None], Awaitable[Any]]
Streaming = Callable[[AsyncIterator[Any], float | None], AsyncIterator[Any]]


@dataclass(frozen=True)
class Service:
    """A gRPC service: the methods it has, by their names in the proto."""

    descriptor: ServiceDescriptor
    unary: Mapping[str, Unary]
    streaming: Mapping[str, Streaming] = field(default_factory=dict)  # those that answer a stream


class GrpcServer:
    """Serves while its context is entered.

    Args:
        services: what to serve; other services and methods get UNIMPLEMENTED.
        host: address to listen on.
        port: 0 picks a free one.
        max_message_bytes: a longer request gets RESOURCE_EXHAUSTED.
        timeout: seconds that a call may take, if its own deadline is not sooner.
        grace: seconds for what is in flight at the end.
        finished: called after every call of a method there is, with its path, the client, the
            name of its status and the seconds it took.
    """

    def __init__(
        self,
        services: Sequence[Service],
        host: str,
        port: int,
        *,
        max_message_bytes: int,
        timeout: float | None = None,
        grace: float = 0,
        finished: Callable[[str, str, str, float], None] | None = None,
    ) -> None:
        self._services = services
        self._finished = finished
        self._host = host
        self.port = port  # once it serves, the one that was picked
        self._options = [
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", -1),
            # Two servers on one port would each get half of the calls.
            ("grpc.so_reuseport", 0),
        ]
        self._timeout = timeout
        self._grace = grace

    @property
    def address(self) -> str:
        """Where it listens: host and port."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self.port}"

    async def __aenter__(self) -> "GrpcServer":
        """Begins to serve.

        Raises:
            AddressError: the port is taken or not permitted.
        """
        self._server = grpc.aio.server(options=self._options)
        handlers = [self._handler(service) for service in self._services]
        self._server.add_generic_rpc_handlers(handlers)
        try:
            self.port = self._server.add_insecure_port(self.address)
        except RuntimeError as error:
            raise AddressError(
                f"cannot listen on {self.address} for gRPC; --grpc-port 0 picks a free port"
            ) from error
        await self._server.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._server.stop(self._grace)

    def _handler(self, service: Service) -> grpc.GenericRpcHandler:
        handlers = {}
        for method in service.descriptor.methods:
            if method.name in service.unary:
                handlers[method.name] = self._unary(method, service.unary[method.name])
            elif method.name in service.streaming:
                handlers[method.name] = self._streaming(method, service.streaming[method.name])
        return grpc.method_handlers_generic_handler(service.descriptor.full_name, handlers)

    def _unary(self, method: MethodDescriptor, answer: Unary) -> grpc.RpcMethodHandler:
        parse = GetMessageClass(method.input_type).FromString

        # Bytes, not messages: what cannot be parsed is the client's fault and gets its own code.
        async def call(body: bytes, context: Any) -> bytes:
            try:
                with self._noted(method, context):
                    response = await answer(_parse(parse, body), self._deadline(context))
                    content: bytes = response.SerializeToString()
            except Exception as error:
                await _abort(context, error)
            return content

        return grpc.unary_unary_rpc_method_handler(call)

    def _streaming(self, method: MethodDescriptor, answer: Streaming) -> grpc.RpcMethodHandler:
        parse = GetMessageClass(method.input_type).FromString

        async def call(bodies: Any, context: Any) -> AsyncIterator[bytes]:
            async def requests() -> AsyncIterator[Any]:
                if not method.client_streaming:
                    yield _parse(parse, bodies)
                    return
                async for body in bodies:
                    yield _parse(parse, body)

            try:
                with self._noted(method, context):
                    async for response in answer(requests(), self._deadline(context)):
                        yield response.SerializeToString()
            except Exception as error:
                await _abort(context, error)

        if method.client_streaming:
            return grpc.stream_stream_rpc_method_handler(call)
        return grpc.unary_stream_rpc_method_handler(call)

    @contextmanager
    def _noted(self, method: MethodDescriptor, context: Any) -> Iterator[None]:
        if self._finished is None:
            yield
            return
        # At the end of a call that was cancelled gRPC knows neither.
        peer, deadline = context.peer(), context.time_remaining()
        started, code = time.monotonic(), "OK"
        try:
            yield
        except asyncio.CancelledError:
            late = deadline is not None and time.monotonic() - started > deadline - SLACK
            code = "DEADLINE_EXCEEDED" if late else "CANCELLED"
            raise
        except Exception as error:
            code = code_name(error)
            raise
        finally:
            path = f"/{method.containing_service.full_name}/{method.name}"
            self._finished(path, peer, code, time.monotonic() - started)

    def _deadline(self, context: Any) -> float | None:
        remaining = context.time_remaining()
        seconds = [each for each in (remaining, self._timeout) if each is not None]
        return time.monotonic() + min(seconds) if seconds else None


def _parse(parse: Callable[[bytes], Any], body: bytes) -> Any:
    try:
        return parse(body)
    except DecodeError as error:
        raise InvalidInputError(f"the message cannot be parsed: {error}") from error


async def _abort(context: Any, error: Exception) -> NoReturn:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    code, message = code_name(error), str(error)
    metadata: tuple[tuple[str, str], ...] = ()
    if isinstance(error, QueueFullError):
        metadata = (("grpc-retry-pushback-ms", str(round(error.retry_after * 1e3))),)
    elif not isinstance(error, ServeError):
        logger.error("a gRPC call failed", exc_info=error)
        message = UNEXPECTED
    await context.abort(grpc.StatusCode[code], message[:MAX_DETAILS], metadata)
    raise AssertionError("abort raises")
