"""A gRPC server on grpcio's event-loop interface, with its limits set on purpose."""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc.aio

from keras_cnns_serve.core.limits import Budget
from keras_cnns_serve.transport.addresses import AddressError, affordable, bind, linger
from keras_cnns_serve.transport.tls import Tls

from .calls import Admit, Calls, Finished, Service
from .guard import Guard
from .reflection import reflection_service

__all__ = ["ConnectionLimits", "GrpcServer", "Service"]

STATUS_SECONDS = 0.5  # in which clients can receive the status that a stop gives their calls


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits for clients and connections."""

    connections: int = 4096  # open at the same time; further ones are closed
    timeout: float = 75  # seconds after which a connection ends that is idle, or whose client is
    # gone, or acknowledges nothing that it is sent; a channel connects again by itself
    streams: int = 256  # calls at the same time on a connection; a client holds back further ones
    waiting_calls: int = 10_000  # whose headers are there, and whose handlers have not begun
    header_bytes: int = 16_384  # of a call; with more it is refused
    answer_bytes: int = 2**28  # of a response; a longer one is RESOURCE_EXHAUSTED
    handshake: float = 20  # seconds from the connection's beginning to HTTP/2's settings
    settings: float = 5  # seconds for the client to acknowledge ours, which limit its headers
    age: float = 86_400  # seconds, after which a connection takes no new calls
    age_grace: float = 3600  # seconds from then on for calls in progress, which are then cancelled
    min_ping_interval: float = 0.5  # seconds between two of the client's pings ...
    ping_strikes: int = 10  # ... how many may come sooner before the connection is closed

    def options(self, max_message_bytes: int) -> list[tuple[str, int]]:
        """Return grpcio's options for these limits."""
        ping = _ms(self.timeout / 2)  # grpcio pings each second at the most
        return [
            # Otherwise a second server could listen on the same port, and take half of the calls.
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", self.answer_bytes),
            ("grpc.max_allowed_incoming_connections", affordable(self.connections)),
            ("grpc.max_concurrent_streams", self.streams),
            # grpcio would unpack messages on the event loop; `messages.unpacked` does it beside it.
            ("grpc.per_message_decompression", 0),
            # Otherwise a client that has as many calls as it may has some refused: grpcio counts
            # calls that are answered until Python has released them.
            ("grpc.http.overload_protection", 0),
            # Of a burst of more than 1,000 calls, grpcio would cancel some by chance. The queue of
            # a model refuses what is too much, with a status that clients try again upon.
            ("grpc.server.max_pending_requests", self.waiting_calls),
            # Both, or a call is refused by chance between the two.
            ("grpc.max_metadata_size", self.header_bytes),
            ("grpc.absolute_max_metadata_size", self.header_bytes),
            # A port scanner, or a client of another protocol, holds a connection for two minutes.
            ("grpc.server_handshake_timeout_ms", _ms(min(self.handshake, self.timeout))),
            ("grpc.http2.settings_timeout", _ms(min(self.settings, self.timeout))),
            ("grpc.max_connection_idle_ms", _ms(self.timeout)),
            ("grpc.max_connection_age_ms", _ms(self.age)),
            ("grpc.max_connection_age_grace_ms", _ms(self.age_grace)),
            # A machine that is switched off closes nothing: its calls and memory must be freed.
            ("grpc.keepalive_time_ms", ping),
            ("grpc.keepalive_timeout_ms", ping),  # the system's too, for bytes not acknowledged
            ("grpc.http2.ping_timeout_ms", ping),  # of pings with another reason
            ("grpc.keepalive_permit_without_calls", 1),
            # Many clients ping each second; grpcio allows one in five minutes, or in two hours.
            ("grpc.http2.min_ping_interval_without_data_ms", _ms(self.min_ping_interval)),
            ("grpc.http2.max_ping_strikes", self.ping_strikes),
        ]


class GrpcServer:
    """Serve while its context is entered.

    Args:
        services: what to serve, beside reflection; other services and methods are UNIMPLEMENTED.
        host: address to listen on.
        port: 0 picks a free one.
        max_message_bytes: a longer request gets RESOURCE_EXHAUSTED, or INVALID_ARGUMENT if it is
            longer only once it is unpacked. At most a quarter of the budget.
        budget: the memory that all calls may hold; None: a gibibyte of their own.
        timeout: seconds that a request may take, if the client's deadline is not sooner.
        grace: seconds for calls in progress when the server stops.
        finished: called after every call of a method that exists, with its path, the client's
            address without a port, the name of the status, and the seconds that it took.
        admit: called with a call's path and metadata; raises an error for one that is not admitted.
        interceptors: `grpc.aio.ServerInterceptor`s around every call, such as OpenTelemetry's.
        tls: encrypts the connections; None: nothing does.
        limits: of connections.
    """

    def __init__(
        self,
        services: Sequence[Service],
        host: str,
        port: int,
        *,
        max_message_bytes: int,
        budget: Budget | None = None,
        timeout: float | None = None,
        grace: float = 0,
        finished: Finished | None = None,
        admit: Admit | None = None,
        interceptors: Sequence[Any] = (),
        tls: Tls | None = None,
        limits: ConnectionLimits = ConnectionLimits(),
    ) -> None:
        services = [*services, reflection_service(services)]
        budget = budget or Budget(2**30)
        # Of a longer message, the copies would be more than one request may hold.
        max_message_bytes = min(max_message_bytes, budget.limit // 4)
        self._calls = Calls(
            services, max_message_bytes, budget, timeout, limits.timeout, finished, admit
        )
        self._host = host
        self.port = port  # the one that was picked, once the server is entered
        self._grace = grace
        self._interceptors = interceptors
        self._tls = tls
        self._options = limits.options(max_message_bytes)

    @property
    def address(self) -> str:
        """Return the host and port that it listens on."""
        return _address(self._host, self.port)

    async def __aenter__(self) -> "GrpcServer":
        """Begin to serve.

        Raises:
            AddressError: the host is unknown, or the port is taken or not permitted.
        """
        # grpcio only says that it failed, in RuntimeError; this says why. It also binds to each
        # address of a name, and HTTP to the first.
        with bind(self._host, self.port, "--grpc-port") as probe:
            host = probe.getsockname()[0]
        self._server = grpc.aio.server(
            handlers=[Guard(self._calls)], interceptors=self._interceptors, options=self._options
        )
        try:
            address = _address(host, self.port)
            if self._tls is None:
                self.port = self._server.add_insecure_port(address)
            else:
                credentials = self._tls.grpc_credentials()
                self.port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:  # another process was faster
            raise AddressError(
                f"cannot listen on {self.address}: another program took it a moment ago; "
                "--grpc-port 0 picks a free port"
            ) from error
        logging.getLogger("grpc._cython.cygrpc").addFilter(_is_no_late_cancel)
        try:
            await self._server.start()
        except BaseException:
            await self._server.stop(None)
            raise
        self._watching = [
            asyncio.create_task(watch())
            for watch in (self._calls.arrivals.watch, self._calls.answers.watch)
        ]
        return self

    async def __aexit__(self, *error: object) -> None:
        """Accept calls for a moment, let those in progress finish, and end the rest."""
        end = time.monotonic() + self._grace
        try:
            await linger(self._grace)
            left = max(0.0, end - time.monotonic())
            stopping = asyncio.create_task(self._server.stop(left + STATUS_SECONDS))
            # grpcio would cancel calls without a status that says why, and log what they raise.
            await self._calls.stop(end)
            await stopping
        finally:
            for task in self._watching:
                task.cancel()


def _is_no_late_cancel(record: logging.LogRecord) -> bool:
    """Return False for the traceback that grpcio logs if a call is cancelled during its answer."""
    return not record.getMessage().startswith("ExecuteBatchError raised in core")


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _ms(seconds: float) -> int:
    return round(seconds * 1e3)
