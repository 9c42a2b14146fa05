"""The way of an HTTP request past the parser and ASGI, to its endpoint at once.

Clients send the same head again and again, but for the length of the body. What one means, as
uvicorn understood it, is kept; to read it anew would take as long as all else beside the inference.
"""

import re
from dataclasses import dataclass

from starlette.types import Scope

from .asgi import App, FastRoute

KEPT_HEADS = 256  # of all connections
LONGEST_KEPT = 2**12  # bytes
LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ([0-9]{1,9})\r\n")
# A head with one of these is read each time: it is of more than a request, or of no other.
NOT_KEPT = re.compile(
    rb"expect|upgrade|transfer-encoding|x-forwarded-.*|traceparent|tracestate|x-request-id"
)


@dataclass(frozen=True, slots=True)
class Known:
    """What a head means."""

    scope: Scope  # without what is of the connection, and the length
    route: FastRoute
    path: re.Match[str]


class ShortWay:
    """Past the parser and ASGI to the endpoints of an application.

    Args:
        app: whose.
    """

    def __init__(self, app: App) -> None:
        self.app = app
        self._known: dict[bytes, Known] = {}

    def get(self, head: bytes) -> Known | None:
        """What a head means, if that is known."""
        return self._known.get(head)

    def keep(self, head: bytes, scope: Scope) -> None:
        """Remembers what it means, if it goes the short way."""
        headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
        closes = any(n == b"connection" and v.lower() != b"keep-alive" for n, v in headers)
        if closes or any(NOT_KEPT.fullmatch(name) for name, _ in headers):
            return
        route, path = self.app.find(scope)
        if scope["http_version"] != "1.1" or route is None or path is None:
            return
        if len(self._known) == KEPT_HEADS:
            self._known.clear()
        kept = {key: scope[key] for key in scope if key not in ("client", "extensions", "state")}
        self._known[head] = Known(kept | {"headers": headers}, route, path)


class ShortCycle:
    """In the place of uvicorn's cycle, for a request that goes the short way."""

    __slots__ = ("disconnected", "keep_alive", "message_event", "response_complete")

    def __init__(self) -> None:
        self.keep_alive = True
        self.disconnected = self.response_complete = False
        self.message_event = self  # uvicorn sets it when something came

    def set(self) -> None:
        """Nobody waits for the body: it is here."""


def split(data: bytes) -> tuple[bytes, bytes] | None:
    """Head, without the length of the body, and body of a request that came whole; else None."""
    end = data.find(b"\r\n\r\n") + 4
    if not 4 < end < LONGEST_KEPT or not data.startswith(b"POST "):
        return None
    length = LENGTH.search(data, 0, end)
    if length is None or end + int(length[1]) != len(data):
        return None
    first, last = length.span(1)
    return data[:first] + data[last:end], data[end:]
