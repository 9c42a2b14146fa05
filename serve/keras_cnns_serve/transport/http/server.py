"""HTTP on uvicorn, as an async context manager."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from keras_cnns_serve.transport.addresses import BACKLOG, AddressError, affordable, linger
from keras_cnns_serve.transport.tls import Tls

from .protocol import Connections, HttpProtocol

logger = logging.getLogger(__name__)

# Seconds for requests in flight when the server stops; Docker kills a container after 10.
_GRACE = 5
# Seconds of the grace period that are reserved for responses to cancelled requests.
_CANCELLED_SECONDS = 0.5
_POLL_SECONDS = 0.02  # interval at which the server checks whether all requests are answered
# Seconds until connections are accepted again after an error, such as too many open files.
_ACCEPT_AGAIN_SECONDS = 1
_ACCEPTED_SECONDS = 0.01  # seconds until uvicorn has registered the last accepted connections


class HttpServer:
    """An HTTP server, which serves while its context is entered.

    It installs no signal handlers and changes no settings of the process, so that several servers
    can run on one event loop, together with other code.

    When it stops, it accepts connections for a short time (`linger`), finishes the requests in
    flight, and cancels requests that exceed the grace period, to which `App` then responds with
    503.

    Args:
        app: the ASGI application.
        listener: a bound socket, which is closed at the end.
        grace: seconds for stopping.
        timeout: seconds after which a connection is ended if it is idle, or if its client sends or
            reads more slowly than `MIN_BYTES_PER_SECOND`.
        max_connections: maximum number of open connections. A further connection replaces a
            connection with a slow TLS handshake, or the connection that has waited longest for its
            first or next request. If there is no such connection, the further connection gets 503.
        tls: the certificate; None: connections are not encrypted.
    """

    def __init__(
        self,
        app: ASGIApp,
        listener: socket.socket,
        *,
        grace: float = _GRACE,
        timeout: float = Connections.timeout,
        max_connections: int = Connections.limit,
        tls: Tls | None = None,
    ) -> None:
        shared = Connections(timeout, affordable(max_connections))
        if shared.limit < max_connections:
            logger.warning(
                "each port can have at most %d connections, not %d: the limit of open files is too "
                "low (ulimit -n)",
                shared.limit,
                max_connections,
            )
        protocol: Any = partial(HttpProtocol, shared=shared)  # uvicorn's annotation is a class
        # uvicorn's annotation is int, but uvicorn only passes the value to `call_later`.
        keep_alive: Any = timeout
        config = uvicorn.Config(
            app,
            http=protocol,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            backlog=BACKLOG,
            timeout_keep_alive=keep_alive,
        )
        self._server = _Server(config, grace, shared, tls)
        self._listener = listener

    async def __aenter__(self) -> "HttpServer":
        """Start the server.

        Raises:
            AddressError: the server cannot listen on the socket.
        """
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        ready = asyncio.create_task(self._server.ready.wait())
        try:
            await asyncio.wait((self._task, ready), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._server.stop()
            await self._task
            raise
        finally:
            ready.cancel()
        if self._task.done():
            self._listener.close()
            try:
                await self._task
            except OSError as error:  # another program has just begun to listen
                raise AddressError(f"cannot listen for HTTP: {error.strerror}") from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Stop within the grace period."""
        self._server.stop()
        await self._task


class _Server(uvicorn.Server):
    """A uvicorn server that installs no signal handlers, and loses no responses when it stops.

    The class accepts encrypted connections itself, in order to count TLS handshakes in progress,
    which asyncio's servers do not report.
    """

    def __init__(
        self, config: uvicorn.Config, grace: float, shared: Connections, tls: Tls | None
    ) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self._grace = grace
        self._shared = shared
        self._tls = tls
        self._accepting: list[asyncio.Task[None]] = []
        self._end = 0.0  # `loop.time()` at the end of the grace period

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no signal handlers."""
        yield

    def stop(self) -> None:
        """Tell the server to stop, and begin the grace period."""
        self._end = asyncio.get_running_loop().time() + self._grace
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start accepting connections."""
        if self._tls is None:
            await super().startup(sockets)
        else:
            self.servers = []
            for listener in sockets or ():
                listener.setblocking(False)
                listener.listen(self.config.backlog)
                accepting = self._accept(listener, self._tls.context())
                self._accepting.append(asyncio.create_task(accepting))
            self.started = True
        self.ready.set()

    async def _accept(self, listener: socket.socket, context: ssl.SSLContext) -> None:
        """Accept connections and begin their handshakes."""
        loop, shared = asyncio.get_running_loop(), self._shared
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except ConnectionAbortedError:  # the client has aborted it already
                continue
            except OSError as error:
                logger.warning("a connection cannot be accepted: %s", error.strerror)
                await asyncio.sleep(_ACCEPT_AGAIN_SECONDS)
                continue
            if shared.num_free(self.server_state.connections) <= 0:
                shared.make_room()  # if there is no room, the client gets 503 after its handshake
            task = loop.create_task(self._shake_hands(connection, context))
            shared.handshakes[task] = loop.time()
            task.add_done_callback(lambda task: shared.handshakes.pop(task, None))
            await asyncio.sleep(0)  # start the handshake, even if many clients are waiting

    async def _shake_hands(self, connection: socket.socket, context: ssl.SSLContext) -> None:
        protocol: Any = self.config.http_protocol_class
        protocol = partial(
            protocol,
            config=self.config,
            server_state=self.server_state,
            app_state={},
            handshake=asyncio.current_task(),
        )
        with suppress(OSError):  # the handshake failed or took too long
            await asyncio.get_running_loop().connect_accepted_socket(
                protocol,
                connection,
                ssl=context,
                ssl_handshake_timeout=self._shared.head_seconds,
                ssl_shutdown_timeout=self._shared.timeout,  # includes writing remaining data
            )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting connections, finish the requests in flight, and close.

        This replaces uvicorn's method, which logs an error even if only idle connections remain.
        """
        state = self.server_state
        try:
            # If the socket were closed now, connections that clients are opening would be reset.
            await linger(self._grace)
            for accepting in self._accepting:
                accepting.cancel()
            if self._accepting:
                await asyncio.wait(self._accepting)
            for listener in (*self.servers, *(sockets or ())):
                listener.close()
            await asyncio.sleep(_ACCEPTED_SECONDS)
            for handshake in self._shared.handshakes:
                handshake.cancel()
            for connection in list(state.connections):
                connection.shutdown()
            end = self._end - min(_CANCELLED_SECONDS, self._grace / 2)
            while asyncio.get_running_loop().time() < end and (
                state.connections or state.tasks or self._shared.handshakes
            ):
                await asyncio.sleep(_POLL_SECONDS)
            if state.tasks:
                logger.warning("%d requests exceed the grace period", len(state.tasks))
                for task in state.tasks:
                    task.cancel()
                await asyncio.wait(state.tasks, timeout=_CANCELLED_SECONDS / 2)  # they send 503
        finally:
            for server in self.servers:
                server.close()
            for connection in list(state.connections):
                connection.transport.abort()
