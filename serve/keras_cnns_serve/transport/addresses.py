"""Bind sockets, and format addresses."""

import asyncio
import contextlib
import errno
import ipaddress
import socket

from keras_cnns_serve.errors import ServeError

# Maximum number of unsent bytes in the system's buffer; the default is several megabytes.
_UNSENT_BYTES = 128 * 2**10
BACKLOG = 4096  # maximum number of connections that wait to be accepted
LINGER = 0.3  # seconds after the signal to stop during which new connections are still accepted


class AddressError(ServeError):
    """The server cannot listen on a host and port."""


def bind(host: str, port: int, option: str = "--port") -> socket.socket:
    """Return a bound TCP socket that does not listen yet; for port 0, the system picks a free port.

    Args:
        host: a name or an address.
        port: a TCP port.
        option: the command-line option of the port, which the error names if the port is in use.

    Raises:
        AddressError: the host is unknown, or the port is in use or not permitted.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # socket.create_server would set the protocol to 0. asyncio then does not disable Nagle's
        # algorithm, which delays responses on persistent connections by 40 ms.
        listener = socket.socket(family, kind, protocol)
    except UnicodeError as error:
        raise AddressError(f"{host!r} is not a host name or address") from error
    except OSError as error:
        raise AddressError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(AttributeError):  # not every system has the option
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
        listener.bind(address)
    except OSError as error:
        listener.close()
        hint = f"; {option} 0 picks a free port" if error.errno == errno.EADDRINUSE else ""
        raise AddressError(f"cannot listen on {host}:{port}: {error.strerror}{hint}") from error
    return listener


def url(listener: socket.socket, scheme: str = "http") -> str:
    """Return the URL of a bound socket, for clients on this machine."""
    host, port = listener.getsockname()[:2]
    address = ipaddress.ip_address(host)
    if address.is_unspecified:  # clients cannot connect to 0.0.0.0 or ::
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    return (
        f"{scheme}://[{address}]:{port}" if address.version == 6 else f"{scheme}://{address}:{port}"
    )


def is_loopback(listener: socket.socket) -> bool:
    """Return whether a bound socket can be reached from this machine only."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def affordable(connections: int) -> int:
    """Return the maximum number of connections on each of the two ports, at most `connections`.

    A quarter of the files that the process may open is reserved for models and other purposes.
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
    """Wait for connections that clients are opening when the server begins to stop."""
    await asyncio.sleep(min(LINGER, grace / 4))
