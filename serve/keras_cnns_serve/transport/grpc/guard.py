"""End the connections of clients that ignore the limit of a call's headers.

grpcio enforces the limits that its settings announce once the client has acknowledged these, and a
hostile client never does. Until then a call may have 16 MiB of headers, which are a block of 8 KB
if they repeat one entry of HPACK's table, and Python makes a tuple of strings of them.
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

MAX_HEADER_BYTES = 64 * 2**10  # grpcio refuses fewer, above its own limit, and leaves the others
DESCRIPTORS = "/dev/fd"
PAUSE = 1.0  # seconds in which further calls of an ended connection cost no search for it
MAX_ENDED = 1000

# One thread looks for connections: it takes long if there are many, and nobody waits for it.
_searching = ThreadPoolExecutor(1, "end-connection")


class Guard(grpc.GenericRpcHandler):
    """Pass calls on to a handler, except those with far too many headers.

    Args:
        handler: Of all methods.
    """

    def __init__(self, handler: grpc.GenericRpcHandler) -> None:
        self._handler = handler
        self._ended: dict[str, float] = {}  # when each peer's connection was ended
        self._refusal = grpc.stream_unary_rpc_method_handler(self._refuse)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Return the handler of a call."""
        headers = handler_call_details.invocation_metadata or ()
        if sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES:
            return self._refusal
        return self._handler.service(handler_call_details)

    async def _refuse(self, _: object, context: grpc.aio.ServicerContext) -> NoReturn:
        peer, now = context.peer(), time.monotonic()
        client, _ = client_address(peer)
        logger.warning(
            "ended the connection of %s: a call has more than %d bytes of headers",
            client,
            MAX_HEADER_BYTES,
            extra={"client": client},
        )
        if now - self._ended.get(peer, -PAUSE) >= PAUSE:
            if len(self._ended) >= MAX_ENDED:
                self._ended.clear()
            self._ended[peer] = now
            end_connection(peer)
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the headers are too long")
        raise AssertionError  # abort has raised


@lru_cache(4096)
def client_address(peer: str) -> tuple[str, int]:
    """Return the host and port of a peer: ipv4:127.0.0.1:5000, or ipv6:%5B::1%5D:5000.

    A client that has gone already may be "unknown", which gives an empty host and 0.
    """
    host, _, port = unquote(peer).partition(":")[2].rpartition(":")
    return host.strip("[]"), int(port or 0)


def end_connection(peer: str) -> None:
    """End this process's TCP connection with a client soon; grpcio has no function for it.

    Args:
        peer: The client, as grpcio names it.
    """
    _searching.submit(_end_connection, *client_address(peer))


def _end_connection(host: str, port: int) -> None:
    client = ipaddress.ip_address(host), port
    for name in os.listdir(DESCRIPTORS):  # noqa: PTH208 - names, of which some are gone by now
        with contextlib.suppress(OSError, ValueError), _opened(int(name)) as connection:
            if connection.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            peer, number = connection.getpeername()[:2]
            address = ipaddress.ip_address(peer)
            if (getattr(address, "ipv4_mapped", None) or address, number) == client:
                connection.shutdown(socket.SHUT_RDWR)
                while connection.recv(2**20, socket.MSG_DONTWAIT):  # or grpcio would still read it
                    pass


def _opened(descriptor: int) -> socket.socket:
    """Return another socket of the same connection; OSError if it is none."""
    copy = os.dup(descriptor)
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise
