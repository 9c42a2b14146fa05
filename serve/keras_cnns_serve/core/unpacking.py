"""Unpack bodies and messages that were packed by gzip or zlib, within bounds."""

import zlib
from typing import Any

from keras_cnns_serve.errors import (
    InputTooLargeError,
    InvalidInputError,
    UnsupportedEncodingError,
)

from .limits import COPIES, Claim
from .threads import UNPACKING

BESIDE_BYTES = 2**9  # of a packed body; unpacked it may be a thousand times as long
FIRST_PIECE, MAX_PIECE = 512, 2**20  # bytes that a decoder takes, or gives, at once
MAX_MEMBERS = 10_000  # of a gzip file; programs that write many have one for each 64 KiB


def unpack(body: bytes, encoding: str, max_bytes: int, claim: Claim, name: str = "body") -> bytes:
    """Return the body unpacked as its Content-Encoding says.

    Args:
        body: As it came.
        encoding: The header.
        max_bytes: It may unpack to so many.
        claim: Grows with what is unpacked.
        name: What the body is, for errors.

    Raises:
        UnsupportedEncodingError: The encoding is unknown.
        InputTooLargeError: It unpacks to more than `max_bytes`.
        QueueFullError: The budget has no room for it.
        InvalidInputError: It is damaged or cut short.
    """
    match encoding.strip().lower():
        case "" | "identity":
            return body
        case "gzip" | "x-gzip" | "deflate":
            pass
        case other:
            raise UnsupportedEncodingError(
                f"Content-Encoding {other!r:.40} is not read here; gzip and deflate are"
            )
    pieces: list[bytes] = []
    unpacked = 0
    packed = memoryview(body)
    position = members = 0
    # A gzip file may have several members. Each is read in pieces that grow with it, because a
    # decoder copies what its member leaves of a piece, and what it has not read of one.
    decoder, piece = _decoder(), FIRST_PIECE
    more = False  # output of the decoder, beyond the piece that it gave
    try:
        while more or position < len(packed):
            if decoder.eof:
                members += 1
                if members == MAX_MEMBERS:
                    raise InvalidInputError(f"the body has more than {MAX_MEMBERS:,} gzip members")
                decoder, piece = _decoder(), FIRST_PIECE
            given = packed[position : position + piece]
            pieces.append(decoder.decompress(given, MAX_PIECE))
            unpacked += len(pieces[-1])
            if unpacked > max_bytes:
                raise InputTooLargeError(f"the {name} unpacks to more than {max_bytes:,} bytes")
            claim.add(COPIES * len(pieces[-1]))
            left = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
            position += len(given) - len(left)
            piece = min(2 * piece, MAX_PIECE)
            more = len(pieces[-1]) == MAX_PIECE and not decoder.eof
    except zlib.error as error:
        raise InvalidInputError(f"the body cannot be unpacked: {error}") from error
    if body and not decoder.eof:
        raise InvalidInputError("the body, packed by gzip, is cut short")
    return b"".join(pieces)


async def unpack_beside(
    body: bytes,
    encoding: str,
    max_bytes: int,
    claim: Claim,
    name: str = "body",
    deadline: float | None = None,
) -> bytes:
    """Do as `unpack`, in another thread where it would keep the event loop busy.

    Raises:
        DeadlineExceededError: The deadline (`time.monotonic()`) has passed before it was done.
    """
    if len(body) < BESIDE_BYTES:
        return unpack(body, encoding, max_bytes, claim, name)
    return await UNPACKING.call(deadline, unpack, body, encoding, max_bytes, claim, name)


def _decoder() -> Any:
    return zlib.decompressobj(zlib.MAX_WBITS | 32)  # 32: a header of gzip or of zlib
