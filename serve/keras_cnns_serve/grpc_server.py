"""gRPC on the event loop that HTTP is on: services, and the port where they are called.

It stands on an HTTP/2 of our own: grpcio's server for asyncio takes 150 microseconds of Python for
a call, which is a third of a small image's inference, and 18 MB.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from google.protobuf.descriptor import ServiceDescriptor

from .grpc_call import (
    BidirectionalCall,
    Call,
    Finished,
    Limits,
    Method,
    Refusal,
    Streaming,
    StreamingCall,
    Unary,
    is_grpc,
)
from .http2 import Http2Connection, Stream
from .http2_headers import Headers
from .server import BACKLOG, bind, linger

IN_THREAD = 20_000  # bytes; values of this length take longer to read than a thread to wake
SWEEP_SECONDS = 1.0  # between two looks for calls that take too long


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
        finished: called after every call of a method there is.
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
        finished: Finished | None = None,
    ) -> None:
        methods = [
            Method(each, service.unary.get(each.name), service.streaming.get(each.name))
            for service in services
            for each in service.descriptor.methods
            if each.name in service.unary or each.name in service.streaming
        ]
        self._methods = {method.path.encode(): method for method in methods}
        self._finished = finished
        self._host = host
        self.port = port  # once it serves, the one that was picked
        self._limits = Limits(max_message_bytes, timeout)
        self._grace = grace
        self._connections: set[Http2Connection] = set()

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
        listener = bind(self._host, self.port, "--grpc-port")
        self.port = listener.getsockname()[1]
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Http2Connection(self._make_call, self._connections),
            sock=listener,
            backlog=BACKLOG,
        )
        self._sweeping = asyncio.create_task(self._sweep())
        return self

    async def __aexit__(self, *error: object) -> None:
        """Takes calls for a moment, finishes those in flight, and ends the rest."""
        end = time.monotonic() + self._grace
        self._each(Http2Connection.announce_end)
        if self._connections:
            await linger(self._grace)
        self._server.close()
        self._each(Http2Connection.end)
        while self._connections and time.monotonic() < end:
            await asyncio.sleep(0.01)
        self._sweeping.cancel()
        for call in self._calls():
            call.stop()
        self._each(lambda connection: connection.transport.close())

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            for call in self._calls():
                call.check()
            for connection in list(self._connections):
                if connection.waits_in_vain():
                    connection.transport.abort()

    def _calls(self) -> list[Call]:
        streams = [each for c in self._connections for each in c.streams.values()]
        return [stream for stream in streams if isinstance(stream, Call)]

    def _each(self, tell: Callable[[Http2Connection], None]) -> None:
        for connection in list(self._connections):
            tell(connection)

    def _make_call(self, connection: Http2Connection, number: int, headers: Headers) -> Stream:
        method = self._methods.get(headers.get(b":path", b""))
        if method is None or not is_grpc(headers) or headers.get(b":method") != b"POST":
            return Refusal(connection, number, headers)
        make: type[Call] = Call
        if method.streaming is not None:
            make = BidirectionalCall if method.takes_stream else StreamingCall
        return make(connection, number, headers, method, self._limits, self._finished)
