"""Where the server listens."""

import asyncio
import contextlib
import errno
import ipaddress
import socket

from keras_cnns_serve.errors import ServeError

UNSENT_BYTES = 128 * 2**10  # that the system holds of an answer; it would hold megabytes
BACKLOG = 4096  # connections that wait to be accepted
LINGER = 0.3  # seconds after the signal to stop in which connections are still accepted


class AddressError(ServeError):
    """The host and port cannot be listened on."""


def bind(host: str, port: int, option: str = "--port") -> socket.socket:
    """Return a TCP socket that is bound and does not listen yet; port 0 picks a free one.

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
        with contextlib.suppress(AttributeError):  # a system without it
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        listener.bind(address)
    except OSError as error:
        listener.close()
        hint = f"; {option} 0 picks a free port" if error.errno == errno.EADDRINUSE else ""
        raise AddressError(f"cannot listen on {host}:{port}: {error.strerror}{hint}") from error
    return listener


def url(listener: socket.socket, scheme: str = "http") -> str:
    """Return the address as a URL that works on this machine."""
    host, port = listener.getsockname()[:2]
    address = ipaddress.ip_address(host)
    if address.is_unspecified:  # a client cannot connect to "every interface"
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    return (
        f"{scheme}://[{address}]:{port}" if address.version == 6 else f"{scheme}://{address}:{port}"
    )


def is_loopback(listener: socket.socket) -> bool:
    """Return whether only this machine reaches a bound socket."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def affordable(connections: int) -> int:
    """Return how many of so many connections each of the two ports can have.

    A quarter of the files that the process may open are left for models and all else.
    """
    try:
        import resource
    except ImportError:  # not a Unix system
        return connections
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files == resource.RLIM_INFINITY:
        return connections
    return min(connections, max(1, files * 3 // 8))


async def linger(grace: float) -> None:
    """Wait for connections that are being opened when the server begins to stop."""
    await asyncio.sleep(min(LINGER, grace / 4))
