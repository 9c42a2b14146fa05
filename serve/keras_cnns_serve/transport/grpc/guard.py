"""End the connections of clients that ignore the limit on the size of a call's headers.

grpcio enforces the limits in its SETTINGS frame only after the client has acknowledged this frame,
which a hostile client never does. Until then, a call can have 16 MiB of headers. On the wire, they
take only 8 KB if they repeat an entry of HPACK's table, but in Python they become a long tuple of
strings.
"""

import contextlib
import ipaddress
import logging
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NoReturn
from urllib.parse import unquote

import grpc
import grpc.aio

logger = logging.getLogger(__name__)

# If a call has more bytes of headers than this, its connection is ended. Calls with fewer bytes,
# but more than grpcio's own limit, are rejected by grpcio.
_MAX_HEADER_BYTES = 64 * 2**10
_DESCRIPTORS = "/dev/fd"
_PAUSE = 1.0  # seconds during which an ended connection is not searched for again
_MAX_ENDED = 1000  # maximum number of connections that are remembered

# The search for a connection takes long if there are many connections, so it runs in a thread. One
# thread is enough, because no caller waits for the result.
_searching = ThreadPoolExecutor(1, "end-connection")


class Guard(grpc.GenericRpcHandler):
    """Reject calls whose headers are far too long, and pass other calls to a handler.

    Args:
        handler: the handler of all methods.
    """

    def __init__(self, handler: grpc.GenericRpcHandler) -> None:
        self._handler = handler
        self._ended: dict[str, float] = {}  # when each peer's connection was ended
        self._rejection = grpc.stream_unary_rpc_method_handler(self._reject)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Return the handler of a call."""
        headers = handler_call_details.invocation_metadata or ()
        if sum(len(name) + len(value) for name, value in headers) > _MAX_HEADER_BYTES:
            return self._rejection
        return self._handler.service(handler_call_details)

    async def _reject(self, _: object, context: grpc.aio.ServicerContext) -> NoReturn:
        peer, now = context.peer(), time.monotonic()
        client, _ = client_address(peer)
        logger.warning(
            "ended the connection of %s: a call has more than %d bytes of headers",
            client,
            _MAX_HEADER_BYTES,
            extra={"client": client},
        )
        if now - self._ended.get(peer, -_PAUSE) >= _PAUSE:
            if len(self._ended) >= _MAX_ENDED:
                self._ended.clear()
            self._ended[peer] = now
            end_connection(peer)
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the headers are too long")
        raise AssertionError  # not reached: abort raises an error


@lru_cache(4096)
def client_address(peer: str) -> tuple[str, int]:
    """Return host and port of a peer, such as ipv4:127.0.0.1:5000 or ipv6:%5B::1%5D:5000.

    The peer can be "unknown" after the client has disconnected; the result is then an empty host
    and port 0.
    """
    host, _, port = unquote(peer).partition(":")[2].rpartition(":")
    return host.strip("[]"), int(port or 0)


def end_connection(peer: str) -> None:
    """End the TCP connection with a client, in a separate thread; grpcio has no function for this.

    Args:
        peer: grpcio's name of the client.
    """
    _searching.submit(_end_connection, *client_address(peer))


def _end_connection(host: str, port: int) -> None:
    client = ipaddress.ip_address(host), port
    for name in os.listdir(_DESCRIPTORS):  # noqa: PTH208 - some of them may be closed by now
        with contextlib.suppress(OSError, ValueError), _opened(int(name)) as connection:
            if connection.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            peer, number = connection.getpeername()[:2]
            address = ipaddress.ip_address(peer)
            if (getattr(address, "ipv4_mapped", None) or address, number) == client:
                connection.shutdown(socket.SHUT_RDWR)
                while connection.recv(
                    2**20, socket.MSG_DONTWAIT
                ):  # discard received data, which grpcio would still read
                    pass


def _opened(descriptor: int) -> socket.socket:
    """Return a duplicate of a socket; raise OSError if the descriptor is not a socket."""
    copy = os.dup(descriptor)
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise
