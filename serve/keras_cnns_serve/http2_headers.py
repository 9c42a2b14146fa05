"""HTTP/2's headers (RFC 7541): the library `hpack` reads them; ours need no table."""

from collections.abc import Mapping

import hpack

from .http2_frames import Code, ProtocolError

MAX_HEAD_BYTES = 2**14  # of a request's headers; with more, that request is refused
MAX_BLOCK_BYTES = MAX_UNPACKED_BYTES = 2**15  # with more, the connection ends
OVERHEAD = 32  # bytes that a header counts beside its own
KEPT_HEADS, LONGEST_KEPT = 64, 2**9  # of a connection, and bytes of one
NO_TABLE = b"\x20"  # before our first header: the table that we might fill has no room
# Headers that are of a connection have no place in HTTP/2.
OF_HTTP1 = {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}

Headers = Mapping[bytes, bytes]


class HeadReader:
    """Unpacks headers, and remembers: clients send the same again and again.

    A block means the same as before while the table of headers is the same.
    """

    def __init__(self) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=MAX_UNPACKED_BYTES)
        self._kept: dict[bytes, Headers | Code] = {}

    def read(self, block: bytes) -> Headers | Code:
        """The headers by their names; of those that no request may have, why its stream must end.

        Raises:
            ProtocolError: they cannot be unpacked, or there are too many.
        """
        if block in self._kept:
            return self._kept[block]
        if len(block) > MAX_BLOCK_BYTES:
            raise ProtocolError(Code.ENHANCE_YOUR_CALM, "the headers are too long")
        table = self._decoder.header_table.dynamic_entries
        before = len(table), table[0] if table else None
        try:
            pairs = self._decoder.decode(block, raw=True)
        except hpack.OversizedHeaderListError as error:
            raise ProtocolError(Code.ENHANCE_YOUR_CALM, "the headers are too long") from error
        except (hpack.HPACKError, UnicodeDecodeError) as error:
            raise ProtocolError(Code.COMPRESSION_ERROR, f"the headers: {error}") from error
        headers: Headers | Code = {bytes(pair[0]): bytes(pair[1]) for pair in pairs}
        if sum(len(pair[0]) + len(pair[1]) + OVERHEAD for pair in pairs) > MAX_HEAD_BYTES:
            headers = Code.ENHANCE_YOUR_CALM
        elif any(pair[0] != pair[0].lower() or pair[0] in OF_HTTP1 for pair in pairs):
            headers = Code.PROTOCOL_ERROR
        after = len(table), table[0] if table else None
        resizes = block[:1] and block[0] & 0xE0 == 0x20
        if resizes or after[0] != before[0] or after[1] is not before[1]:
            self._kept.clear()
        elif len(block) <= LONGEST_KEPT:
            if len(self._kept) == KEPT_HEADS:
                self._kept.clear()
            self._kept[block] = headers
        return headers


def pack_header(name: bytes, value: bytes) -> bytes:
    """A header for `Http2Connection.respond`, in a form that no table remembers."""
    return b"\x00" + _pack_string(name) + _pack_string(value)


def _pack_string(text: bytes) -> bytes:
    """RFC 7541, sections 5.1 and 5.2: the length with a prefix of 7 bits, then the octets."""
    length = len(text)
    if length < 127:
        return bytes([length]) + text
    length -= 127
    packed = bytearray([127])
    while length >= 128:
        packed.append(length % 128 + 128)
        length //= 128
    packed.append(length)
    return bytes(packed) + text
