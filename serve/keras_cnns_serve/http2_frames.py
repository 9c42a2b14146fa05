"""HTTP/2's frames: their numbers, their form, and what is wrong with them (RFC 9113)."""

import struct
from enum import IntEnum

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY = range(8)
WINDOW_UPDATE, CONTINUATION = 8, 9
LENGTHS = {PRIORITY: 5, RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4}  # of frames, in bytes
OF_CONNECTION = {SETTINGS, PING, GOAWAY}  # frames without a stream; WINDOW_UPDATE may have one
ACK = END_STREAM = 0x1  # flags
END_HEADERS, PADDED, HAS_PRIORITY = 0x4, 0x8, 0x20
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = range(3, 7)
LARGEST = 2**31 - 1  # window, or number of a stream
DEFAULT_WINDOW = 2**16 - 1
DEFAULT_FRAME = 2**14

FRAME = struct.Struct(">BHBBL")  # length (24 bits, in two), type, flags, stream
SETTING = struct.Struct(">HL")
NUMBER = struct.Struct(">L")


class Code(IntEnum):
    """Why a stream or a connection ends (RFC 9113, section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class ProtocolError(Exception):
    """The client broke the protocol: the connection ends."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame."""
    return frame_head(len(payload), kind, flags, stream) + payload


def number_frame(kind: int, stream: int, number: int) -> bytes:
    """A frame that holds a number alone, as RST_STREAM and WINDOW_UPDATE do."""
    return frame(kind, 0, stream, NUMBER.pack(number))


def frame_head(length: int, kind: int, flags: int, stream: int) -> bytes:
    """What stands before a frame's payload."""
    return FRAME.pack(length >> 16, length & 0xFFFF, kind, flags, stream)


def unpadded(flags: int, payload: bytes) -> bytes:
    """A payload without its padding.

    Raises:
        ProtocolError: there is less than it says.
    """
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ProtocolError(Code.PROTOCOL_ERROR, "more padding than there is")
    return payload[1 : len(payload) - payload[0]]
