"""Runs the application on a socket with uvicorn, and says where."""

import asyncio
import contextlib
import errno
import gc
import ipaddress
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from .asgi import App
from .errors import ServeError
from .http_protocol import HttpProtocol
from .short_way import ShortWay

# Seconds that a thread keeps the interpreter while another waits for it. With Python's 5 ms a core
# stands idle each time that an engine is done and the event loop is busy.
SWITCH_INTERVAL = 50e-6
# New objects between two searches for garbage in cycles, of which requests leave none. With
# Python's 700 a few dozen requests in flight set one off again and again.
GARBAGE_THRESHOLD = 10_000
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
BACKLOG = 4096  # connections that wait to be taken
LINGER = 0.3  # seconds after the signal in which connections are still taken
GRACE = 5  # seconds for requests in flight after a signal to stop; Docker kills after 10
LAST_WORDS = 0.5  # seconds of it to tell those whose requests are given up, and to end

# Something that runs beside HTTP on the same event loop, such as gRPC: entered before the server
# says that it is ready, left after the last HTTP answer.
Beside = Callable[[], AbstractAsyncContextManager[object]]


class AddressError(ServeError):
    """The host and port cannot be listened on."""


class _Server(uvicorn.Server):
    """uvicorn, with calls of ours when it is ready and when it is told to stop."""

    def __init__(
        self,
        config: uvicorn.Config,
        ready: Callable[[], None],
        stopping: Callable[[], None],
        beside: Sequence[Beside],
        grace: float,
    ) -> None:
        super().__init__(config)
        self._ready = ready
        self._stopping = stopping
        self._beside = beside
        self._grace = grace
        self._end: float | None = None  # of the grace, by time.monotonic()
        self._stack = AsyncExitStack()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for each in self._beside:
            await self._stack.enter_async_context(each())
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Side by side: each has the whole grace.
        await asyncio.gather(self._end_http(sockets), self._stack.aclose())
        if self.server_state.tasks:  # cancelled: they still answer that they are
            await asyncio.wait(self.server_state.tasks, timeout=LAST_WORDS / 2)

    async def _end_http(self, sockets: list[socket.socket] | None) -> None:
        # To close at once would reset what is on its way: those who come are answered, and told to
        # come no more on this connection; who looks finds that the server is not ready.
        try:
            await linger(self._grace)
            await self._close_http(sockets)
        finally:
            HttpProtocol.last_answers = False

    async def _close_http(self, sockets: list[socket.socket] | None) -> None:
        # The loop may have been busy since the signal.
        left = self._grace if self._end is None else self._end - time.monotonic()
        wait = max(0.0, left - min(LAST_WORDS, self._grace / 2))
        self.config.timeout_graceful_shutdown = wait  # type: ignore[assignment]  # it may be a float
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._end is None:
            self._end = time.monotonic() + self._grace
            HttpProtocol.last_answers = True
            self._stopping()
        super().handle_exit(sig, frame)


async def linger(grace: float) -> None:
    """Waits for those who are on their way as the server is told to stop."""
    await asyncio.sleep(min(LINGER, grace / 4))


def bind(host: str, port: int, option: str = "--port") -> socket.socket:
    """A TCP socket with its address, which takes no connections yet; port 0 picks a free one.

    Args:
        host: a name or an address.
        port: TCP.
        option: of the command line, for the error of a port that is taken.

    Raises:
        AddressError: the host is unknown, or the port is taken or not permitted.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # Not socket.create_server: it leaves the protocol 0, asyncio then leaves Nagle's
        # algorithm on, and every answer on a connection that is kept waits for 40 ms.
        listener = socket.socket(family, kind, protocol)
    except UnicodeError as error:
        raise AddressError(f"{host!r} is not a host") from error
    except OSError as error:
        raise AddressError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        hint = f"; {option} 0 picks a free port" if error.errno == errno.EADDRINUSE else ""
        raise AddressError(f"cannot listen on {host}:{port}: {error.strerror}{hint}") from error
    return listener


def url(listener: socket.socket) -> str:
    """The address as a person on this machine would type it."""
    host, port = listener.getsockname()[:2]
    address = ipaddress.ip_address(host)
    if address.is_unspecified:  # "every interface" is no place to send a request to
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    return f"http://[{address}]:{port}" if address.version == 6 else f"http://{address}:{port}"


def run(
    app: ASGIApp,
    listener: socket.socket,
    ready: Callable[[], None],
    stopping: Callable[[], None] = lambda: None,
    beside: Sequence[Beside] = (),
    grace: float = GRACE,
) -> None:
    """Serves until SIGTERM or SIGINT, then finishes what is in flight and returns.

    Both signals are ignored from then on: the process is about to end with success.

    Args:
        app: the ASGI application.
        listener: a bound socket, closed at the end.
        ready: called once requests are answered.
        stopping: called at the signal, the first of several.
        beside: what runs on the same event loop.
        grace: seconds from the signal on for what is in flight; the rest gets 503.
    """
    short = ShortWay(app) if isinstance(app, App) else None
    http: Any = partial(HttpProtocol, short=short)
    config = uvicorn.Config(
        app,
        http=http,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        backlog=BACKLOG,
        timeout_keep_alive=75,  # longer than load balancers keep an idle connection
    )
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.freeze()  # what is there now stays, and need not be searched
    gc.set_threshold(GARBAGE_THRESHOLD)
    _allow_files()
    with listener, _signals_ignored_afterwards():
        _Server(config, ready, stopping, beside, grace).run(sockets=[listener])


def _allow_files() -> None:
    """As many connections as the system permits: the usual limit is of 1024 open files."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextmanager
def _signals_ignored_afterwards() -> Iterator[None]:
    """uvicorn raises the signal that stopped it once more; to stop when asked is a success.

    So it is when one is told twice, and the second time at its very end.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: None)
    try:
        yield
    finally:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # Python's own end leaves this as it is


def say(line: str) -> None:
    """Prints a line at once, so that a process reading our pipe sees it."""
    print(line, flush=True, file=sys.stdout)
