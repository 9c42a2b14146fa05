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

GRACE = 5  # seconds for requests in flight as the server stops; Docker kills after 10
CANCELLED_SECONDS = 0.5  # of the grace, to answer the requests that are cancelled
POLL_SECONDS = 0.02  # between two looks whether all is answered
ACCEPT_AGAIN_SECONDS = 1  # after an error, such as too many open files
ACCEPTED_SECONDS = 0.01  # until connections that were accepted last are known to uvicorn


class HttpServer:
    """An HTTP server, which serves while its context is entered.

    It installs no signal handlers and changes nothing else of the process, so that several may
    run on one event loop, and beside other code.

    At its end it still accepts connections for a moment (`linger`), then finishes the requests in
    flight and cancels those that take longer than the grace; `App` answers them with 503.

    Args:
        app: The ASGI application.
        listener: A bound socket; it is closed at the end.
        grace: Seconds for all of the end.
        timeout: Seconds after which a connection ends that is idle, or whose client sends or reads
            nothing, or less than `MIN_BYTES_PER_SECOND`.
        max_connections: Connections that are open at the same time. A further one takes the place
            of one with a slow TLS handshake, or else of the one that has waited longest for its
            first request, or else for another one; if there is none, it gets 503.
        tls: Encrypts the connections; None: nothing does.
    """

    def __init__(
        self,
        app: ASGIApp,
        listener: socket.socket,
        *,
        grace: float = GRACE,
        timeout: float = Connections.timeout,
        max_connections: int = Connections.limit,
        tls: Tls | None = None,
    ) -> None:
        shared = Connections(timeout, affordable(max_connections))
        if shared.limit < max_connections:
            logger.warning(
                "each port has at most %d connections, not %d: the process may not open enough "
                "files (ulimit -n)",
                shared.limit,
                max_connections,
            )
        protocol: Any = partial(HttpProtocol, shared=shared)  # uvicorn annotates a class
        keep_alive: Any = timeout  # uvicorn annotates int, and gives it to `call_later`
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
        """Start to serve.

        Raises:
            AddressError: the socket cannot be listened on.
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
            except OSError as error:  # another program began to listen a moment before
                raise AddressError(f"cannot listen for HTTP: {error.strerror}") from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Stop, within the grace."""
        self._server.stop()
        await self._task


class _Server(uvicorn.Server):
    """uvicorn, without signals, and with an end that loses no answers.

    It accepts encrypted connections itself: asyncio's servers show a connection only after its
    handshake, so that those before it could not be counted.
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
        self._end = 0.0  # of the grace, on the loop's clock

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield

    def stop(self) -> None:
        """Ask the server to stop; the grace begins."""
        self._end = asyncio.get_running_loop().time() + self._grace
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept connections."""
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
        """Begin a handshake with each client."""
        loop, shared = asyncio.get_running_loop(), self._shared
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except ConnectionAbortedError:  # by the client, before
                continue
            except OSError as error:
                logger.warning("a connection cannot be accepted: %s", error.strerror)
                await asyncio.sleep(ACCEPT_AGAIN_SECONDS)
                continue
            if shared.free(self.server_state.connections) <= 0:
                shared.make_room()  # or the client gets 503 after its handshake
            task = loop.create_task(self._shake_hands(connection, context))
            shared.handshakes[task] = loop.time()
            task.add_done_callback(lambda task: shared.handshakes.pop(task, None))
            await asyncio.sleep(0)  # so that it begins, however many clients wait

    async def _shake_hands(self, connection: socket.socket, context: ssl.SSLContext) -> None:
        protocol: Any = self.config.http_protocol_class
        protocol = partial(
            protocol,
            config=self.config,
            server_state=self.server_state,
            app_state={},
            handshake=asyncio.current_task(),
        )
        with suppress(OSError):  # it failed, or took too long
            await asyncio.get_running_loop().connect_accepted_socket(
                protocol,
                connection,
                ssl=context,
                ssl_handshake_timeout=self._shared.head_seconds,
                ssl_shutdown_timeout=self._shared.timeout,  # with what is still to be written
            )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting connections, finish the requests in flight, and close.

        uvicorn's own method also reports an error if only idle connections are left.
        """
        state = self.server_state
        try:
            # Closing at once would reset connections that are being opened.
            await linger(self._grace)
            for accepting in self._accepting:
                accepting.cancel()
            if self._accepting:
                await asyncio.wait(self._accepting)
            for listener in (*self.servers, *(sockets or ())):
                listener.close()
            await asyncio.sleep(ACCEPTED_SECONDS)
            for handshake in self._shared.handshakes:
                handshake.cancel()
            for connection in list(state.connections):
                connection.shutdown()
            end = self._end - min(CANCELLED_SECONDS, self._grace / 2)
            while asyncio.get_running_loop().time() < end and (
                state.connections or state.tasks or self._shared.handshakes
            ):
                await asyncio.sleep(POLL_SECONDS)
            if state.tasks:
                logger.warning("%d requests are not answered within the grace", len(state.tasks))
                for task in state.tasks:
                    task.cancel()
                await asyncio.wait(state.tasks, timeout=CANCELLED_SECONDS / 2)  # they send 503
        finally:
            for server in self.servers:
                server.close()
            for connection in list(state.connections):
                connection.transport.abort()
