"""A gRPC server on grpc.aio, with explicit limits."""

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

from .calls import Authorize, Calls, OnResponse, Service
from .guard import Guard
from .reflection import reflection_service

__all__ = ["ConnectionLimits", "GrpcServer", "Service"]

# Seconds for clients to receive the status of calls that are ended when the server stops.
_STATUS_SECONDS = 0.5


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits of connections and calls."""

    connections: int = 4096  # maximum number of open connections; further connections are closed
    # Seconds after which a connection is ended if it is idle, or if its client neither answers
    # pings nor acknowledges data. The client's channel reconnects for its next call.
    timeout: float = 75
    # Maximum number of concurrent calls on a connection; clients queue further calls.
    streams: int = 256
    waiting_calls: int = 10_000  # maximum number of calls whose handlers have not begun
    header_bytes: int = 16_384  # maximum size of a call's headers
    response_bytes: int = 2**28  # maximum size; a longer response becomes RESOURCE_EXHAUSTED
    handshake: float = 20  # seconds from accepting a connection to its SETTINGS frame
    settings: float = 5  # seconds for the client to acknowledge our SETTINGS
    age: float = 86_400  # seconds after which a connection accepts no new calls (GOAWAY)
    age_grace: float = 3600  # seconds after `age` at which calls in progress are cancelled
    min_ping_interval: float = 0.5  # minimum seconds between two pings of a client
    # Number of pings at shorter intervals after which the connection is closed.
    ping_strikes: int = 10

    def options(self, max_message_bytes: int) -> list[tuple[str, int]]:
        """Return grpcio's options for these limits."""
        ping = _ms(self.timeout / 2)  # grpcio's minimum is one second
        return [
            # By default, a second server could listen on the same port and would get half of the
            # calls.
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", self.response_bytes),
            ("grpc.max_allowed_incoming_connections", affordable(self.connections)),
            ("grpc.max_concurrent_streams", self.streams),
            # grpcio would decompress on the event loop; `decompress_message` uses a thread.
            ("grpc.per_message_decompression", 0),
            # By default grpcio rejects some calls of a client at the limit of concurrent calls,
            # because it counts a finished call until Python has released it.
            ("grpc.http.overload_protection", 0),
            # In a burst of more than 1,000 calls, grpcio would cancel some at random. The queue of
            # a model instead rejects calls with a status upon which clients retry.
            ("grpc.server.max_pending_requests", self.waiting_calls),
            # Calls whose metadata has a size between these two limits would be rejected at random,
            # so the limits are equal.
            ("grpc.max_metadata_size", self.header_bytes),
            ("grpc.absolute_max_metadata_size", self.header_bytes),
            # By default port scanners and clients of other protocols hold a connection for two
            # minutes.
            ("grpc.server_handshake_timeout_ms", _ms(min(self.handshake, self.timeout))),
            ("grpc.http2.settings_timeout", _ms(min(self.settings, self.timeout))),
            ("grpc.max_connection_idle_ms", _ms(self.timeout)),
            ("grpc.max_connection_age_ms", _ms(self.age)),
            ("grpc.max_connection_age_grace_ms", _ms(self.age_grace)),
            # Detect clients that vanished without closing their connections.
            ("grpc.keepalive_time_ms", ping),
            # This also sets TCP_USER_TIMEOUT, for unacknowledged bytes.
            ("grpc.keepalive_timeout_ms", ping),
            ("grpc.http2.ping_timeout_ms", ping),  # for pings that grpcio sends for other reasons
            ("grpc.keepalive_permit_without_calls", 1),
            # Many clients ping each second, but by default grpcio permits only one ping in five
            # minutes, or in two hours while there is no call.
            ("grpc.http2.min_ping_interval_without_data_ms", _ms(self.min_ping_interval)),
            ("grpc.http2.max_ping_strikes", self.ping_strikes),
        ]


class GrpcServer:
    """A gRPC server, which serves while its context is entered.

    Args:
        services: the services; reflection is added. Calls of other methods fail with UNIMPLEMENTED.
        host: address to listen on.
        port: a TCP port; for 0, the system picks a free port.
        max_message_bytes: maximum size of a request, limited to a quarter of the budget. A longer
            request gets RESOURCE_EXHAUSTED, or INVALID_ARGUMENT if it is longer only after
            decompression.
        budget: the memory budget of all calls; None: a separate one of 1 GiB.
        timeout: maximum seconds of a request; the client's deadline can be earlier.
        grace: seconds for calls in progress when the server stops.
        on_response: called after each call of an existing method, with its path, the client's
            address without port, the name of the status, and the seconds that it took.
        authorize: called with the path and metadata of a call; raises an error to reject it.
        interceptors: `grpc.aio.ServerInterceptor`s for all calls, such as OpenTelemetry's.
        tls: the certificate; None: connections are not encrypted.
        limits: the limits of connections and calls.
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
        on_response: OnResponse | None = None,
        authorize: Authorize | None = None,
        interceptors: Sequence[Any] = (),
        tls: Tls | None = None,
        limits: ConnectionLimits = ConnectionLimits(),
    ) -> None:
        services = [*services, reflection_service(services)]
        budget = budget or Budget(2**30)
        # The copies of a longer message would exceed the limit of one request.
        max_message_bytes = min(max_message_bytes, budget.limit // 4)
        self._calls = Calls(
            services, max_message_bytes, budget, timeout, limits.timeout, on_response, authorize
        )
        self._host = host
        self.port = port  # if 0, replaced by the picked port when the context is entered
        self._grace = grace
        self._interceptors = interceptors
        self._tls = tls
        self._options = limits.options(max_message_bytes)

    @property
    def address(self) -> str:
        """Return the host and port on which the server listens."""
        return _address(self._host, self.port)

    async def __aenter__(self) -> "GrpcServer":
        """Start the server.

        Raises:
            AddressError: the host is unknown, or the port is in use or not permitted.
        """
        # Binding first gives a better error than grpcio's RuntimeError. It also resolves a name to
        # its first address, as for HTTP; grpcio would listen on all addresses of the name.
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
        except RuntimeError as error:  # another process has bound the port in the meantime
            raise AddressError(
                f"cannot listen on {self.address}: another program has just taken the port; "
                "--grpc-port 0 picks a free port"
            ) from error
        logging.getLogger("grpc._cython.cygrpc").addFilter(_is_not_of_a_client)
        try:
            await self._server.start()
        except BaseException:
            await self._server.stop(None)
            raise
        self._watching = [
            asyncio.create_task(watch())
            for watch in (self._calls.arrivals.watch, self._calls.responses.watch)
        ]
        return self

    async def __aexit__(self, *error: object) -> None:
        """Accept calls for a short time, let calls finish within `grace`, and end the rest.

        A client can send further calls until it has received the GOAWAY frame, and grpcio ends them
        with CANCELLED (grpc#24237). docs/production.md describes how proxies and clients can use
        another server in this case.
        """
        end = time.monotonic() + self._grace
        try:
            await linger(self._grace)
            remaining = max(0.0, end - time.monotonic())
            stopping = asyncio.create_task(self._server.stop(remaining + _STATUS_SECONDS))
            # End calls before grpcio does, which would cancel them without a meaningful status and
            # log exceptions.
            await self._calls.stop(end)
            await stopping
        finally:
            for task in self._watching:
                task.cancel()


def _is_not_of_a_client(record: logging.LogRecord) -> bool:
    """Return False if a log record has a traceback of grpcio that was caused by a client.

    There are two such causes. A client can cancel a call while its response is sent. A client can
    also send metadata, such as tokens, that is not valid UTF-8. grpcio then reads the metadata as
    Latin-1, but would first log it.
    """
    message = str(record.msg)
    return not message.startswith(("ExecuteBatchError raised in core", "Invalid encoding on"))


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _ms(seconds: float) -> int:
    return round(seconds * 1e3)
