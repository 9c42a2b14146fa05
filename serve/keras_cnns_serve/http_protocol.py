"""uvicorn's fast HTTP protocol, with a limit to what stands before a body.

httptools collects a head of any length; a client could fill the memory with one.
"""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 2**10  # the request line and the headers


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    _head = 0  # bytes of the head, as far as parsed
    _unparsed = 0  # bytes that came since the head began, while it is not complete
    _in_head = True

    def data_received(self, data: bytes) -> None:
        """Parses what came."""
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._unparsed += len(data)
            if self._unparsed > MAX_HEAD_BYTES:
                self.send_400_response("The head of the request is too long.")

    def on_message_begin(self) -> None:
        """A request begins."""
        self._head = self._unparsed = 0
        self._in_head = True
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of the address."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The body begins."""
        self._in_head = False
        super().on_headers_complete()

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > MAX_HEAD_BYTES:
            raise ValueError("the head is too long")  # httptools makes a 400 of it
