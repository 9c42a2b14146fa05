"""Decompress bodies and messages (gzip, zlib) within limits of size and memory."""

import zlib
from typing import Any

from keras_cnns_serve.errors import (
    InputTooLargeError,
    InvalidInputError,
    UnsupportedEncodingError,
)

from .limits import COPIES, Claim
from .threads import DECOMPRESSION

_THREAD_BYTES = 2**9  # bodies with more bytes can expand a lot, and are decompressed in a thread
_FIRST_PIECE, _MAX_PIECE = 512, 2**20  # bytes of input or output in one call of the decoder
# Maximum number of members in a gzip file; some programs write a member for each 64 KiB.
_MAX_MEMBERS = 10_000


def decompress(
    body: bytes, encoding: str, max_bytes: int, claim: Claim, name: str = "body"
) -> bytes:
    """Return the decompressed body.

    Args:
        body: the compressed body.
        encoding: the header Content-Encoding.
        max_bytes: the maximum size after decompression.
        claim: the claim of memory, which grows with the decompressed bytes.
        name: the noun for the body in error messages: "body" or "message".

    Raises:
        UnsupportedEncodingError: the encoding is unknown.
        InputTooLargeError: the decompressed body is longer than `max_bytes`.
        QueueFullError: there is not enough free memory.
        InvalidInputError: the body is damaged or truncated.
    """
    match encoding.strip().lower():
        case "" | "identity":
            return body
        case "gzip" | "x-gzip" | "deflate":
            pass
        case other:
            raise UnsupportedEncodingError(
                f"Content-Encoding {other!r:.40} is not supported; use gzip or deflate"
            )
    pieces: list[bytes] = []
    size = 0
    compressed = memoryview(body)
    position = members = 0
    # A gzip file can have several members. The decoder copies the part of a piece that it has not
    # consumed, such as the bytes after a member's end. To keep these copies small, the first piece
    # of each member is small, and the next pieces grow.
    decoder, piece = _decoder(), _FIRST_PIECE
    more = False  # whether the decoder has more output
    try:
        while more or position < len(compressed):
            if decoder.eof:
                members += 1
                if members == _MAX_MEMBERS:
                    raise InvalidInputError(
                        f"the {name} has more than {_MAX_MEMBERS:,} gzip members"
                    )
                decoder, piece = _decoder(), _FIRST_PIECE
            given = compressed[position : position + piece]
            pieces.append(decoder.decompress(given, _MAX_PIECE))
            size += len(pieces[-1])
            if size > max_bytes:
                raise InputTooLargeError(
                    f"the {name} has more than {max_bytes:,} bytes after decompression"
                )
            claim.add(COPIES * len(pieces[-1]))
            left = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
            position += len(given) - len(left)
            piece = min(2 * piece, _MAX_PIECE)
            more = len(pieces[-1]) == _MAX_PIECE and not decoder.eof
    except zlib.error as error:
        raise InvalidInputError(f"the {name} cannot be decompressed: {error}") from error
    if body and not decoder.eof:
        raise InvalidInputError(f"the compressed {name} is truncated")
    return b"".join(pieces)


async def decompress_async(
    body: bytes,
    encoding: str,
    max_bytes: int,
    claim: Claim,
    name: str = "body",
    deadline: float | None = None,
) -> bytes:
    """Do the same as `decompress`, in a thread unless the body is short.

    Raises:
        DeadlineExceededError: the deadline, a value of `time.monotonic()`, has passed.
    """
    if len(body) < _THREAD_BYTES:
        return decompress(body, encoding, max_bytes, claim, name)
    return await DECOMPRESSION.call(deadline, decompress, body, encoding, max_bytes, claim, name)


def _decoder() -> Any:
    return zlib.decompressobj(zlib.MAX_WBITS | 32)  # 32: accept a header of gzip or zlib
