"""HTTP on uvicorn, as an async context manager."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import uvicorn
from starlette.types import ASGIApp

from keras_cnns_serve.transport.addresses import BACKLOG, AddressError, linger

from .protocol import HttpProtocol

GRACE = 5  # seconds for requests in flight as the server stops; Docker kills after 10
CANCELLED_SECONDS = 0.5  # of the grace, to answer the requests that are cancelled
ACCEPTED_SECONDS = 0.01  # until connections that were accepted last are known to uvicorn


class HttpServer:
    """An HTTP server, which serves while its context is entered.

    It installs no signal handlers and changes nothing else of the process, so that several may
    run on one event loop, and beside other code.

    At its end it still accepts connections for a moment (`linger`), then finishes the requests in
    flight and cancels those that take longer than the grace; `App` answers them with 503.

    Args:
        app: the ASGI application.
        listener: a bound socket; it is closed at the end.
        grace: seconds for all of the end.
    """

    def __init__(self, app: ASGIApp, listener: socket.socket, *, grace: float = GRACE) -> None:
        config = uvicorn.Config(
            app,
            http=HttpProtocol,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            backlog=BACKLOG,
            timeout_keep_alive=75,  # longer than load balancers keep an idle connection
        )
        self._server = _Server(config, grace)
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
    """uvicorn, without signals, and with an end that loses no answers."""

    def __init__(self, config: uvicorn.Config, grace: float) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self._grace = grace
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
        await super().startup(sockets)
        self.ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting connections, finish the requests in flight, and close."""
        try:
            # Closing at once would reset connections that are being opened.
            await linger(self._grace)
            for server in self.servers:
                server.close()
            await asyncio.sleep(ACCEPTED_SECONDS)
            left = self._end - asyncio.get_running_loop().time()
            wait = max(0.0, left - min(CANCELLED_SECONDS, self._grace / 2))
            # uvicorn annotates int, and gives it to asyncio.wait_for.
            self.config.timeout_graceful_shutdown = wait  # type: ignore[assignment]
            await super().shutdown(sockets)
            if self.server_state.tasks:  # cancelled: they still send their 503
                await asyncio.wait(self.server_state.tasks, timeout=CANCELLED_SECONDS / 2)
        finally:
            for server in self.servers:
                server.close()
            for connection in list(self.server_state.connections):
                connection.transport.abort()
