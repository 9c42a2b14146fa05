"""Unpack and parse the messages of gRPC calls, within bounds.

protobuf allocates up to 64 bytes for each byte of a message that consists of empty messages, and
parses such a message for a second. A message that is long enough for this to matter is looked
through before: how many fields it has, and how much of it are numbers, which become longer.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from keras_cnns_serve.core.compression import decompress_async
from keras_cnns_serve.core.limits import Claim
from keras_cnns_serve.core.threads import PARSING
from keras_cnns_serve.errors import InputTooLargeError, InvalidInputError

# How a packed message begins. No request begins so: gzip's first byte is none of protobuf's, and
# zlib's is that of a field 15, which no request has.
GZIP = b"\x1f\x8b"
DEFLATE = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
SHORT = 2**16  # bytes of a message that needs no look
MAX_FIELDS = 20_000  # a thousand images as tf.Examples have a quarter of it
FEW_FIELDS = 500  # which take less time to count than a thread to wake
BYTES_OF_FIELD = 256  # of memory, at most
BYTES_OF_NUMBERS = 16  # of memory for each byte, which may be a number by itself
COPIES = 3  # of a message: as it came, parsed, and as arrays
_SIZES = {1: 8, 3: 0, 4: 0, 5: 4}  # bytes of a value, by its wire type
_VARINT, _LENGTH_DELIMITED = 0, 2


def parser(method: MethodDescriptor) -> Callable[[bytes], Any]:
    """Return the function that parses a method's requests.

    Raises, when it is called:
        InvalidInputError: The message is damaged.
    """
    from_string = GetMessageClass(method.input_type).FromString

    def parse(message: bytes) -> Any:
        try:
            return from_string(message)
        except DecodeError as error:
            raise InvalidInputError(f"the message cannot be parsed: {error}") from error

    return parse


async def unpacked(message: bytes, max_bytes: int, claim: Claim, deadline: float | None) -> bytes:
    """Return a message that was packed by gzip or deflate unpacked, and others as they are.

    Args:
        message: As grpcio delivers it, which leaves out how it is packed.
        max_bytes: It may unpack to so many.
        claim: Grows with what is unpacked.
        deadline: The `time.monotonic()` at which the request's time is over, or None.

    Raises:
        InputTooLargeError: It unpacks to more.
        QueueFullError: The budget has no room for it.
        InvalidInputError: It is damaged or cut short.
        DeadlineExceededError: The deadline has passed before it was done.
    """
    start = message[:2]
    if start == GZIP or start in DEFLATE:
        return await decompress_async(message, "gzip", max_bytes, claim, "message", deadline)
    return message


async def memory_beside(message: bytes, descriptor: Descriptor, deadline: float | None) -> int:
    """Do as `memory_of`, in another thread where it would keep the event loop busy.

    Raises:
        DeadlineExceededError: The deadline (`time.monotonic()`) has passed before it was done.
    """
    try:
        return memory_of(message, descriptor, FEW_FIELDS)
    except InputTooLargeError:
        pass  # and forgotten, or a later error would hold it, and it the message
    return await PARSING.call(deadline, memory_of, message, descriptor)


def memory_of(message: bytes, descriptor: Descriptor, max_fields: int = MAX_FIELDS) -> int:
    """Return the bytes that a message takes at most, itself, parsed, and as arrays.

    Raises:
        InputTooLargeError: It is long and has more than `max_fields` fields.
    """
    if len(message) <= SHORT:
        return len(message) * (COPIES + BYTES_OF_FIELD // 4)
    fields, numbers = _count(message, descriptor, max_fields)
    return COPIES * len(message) + BYTES_OF_FIELD * fields + BYTES_OF_NUMBERS * numbers


def _count(message: bytes, descriptor: Descriptor, max_fields: int) -> tuple[int, int]:
    """Return the number of fields, and the bytes of numbers; fewer of a damaged message.

    The wire format: https://protobuf.dev/programming-guides/encoding/
    """
    fields = numbers = 0
    parts = [(0, len(message), descriptor)]
    try:
        while parts:
            position, end, kind = parts.pop()
            messages, packed = _kinds(kind)
            while position < end:
                fields += 1
                if fields > max_fields:
                    raise InputTooLargeError(
                        f"the message has more than {max_fields:,} fields; send a tensor's values "
                        "as its raw bytes, and fewer images in a request"
                    )
                key, position = _varint(message, position)
                wire_type = key & 7
                if wire_type == _VARINT:
                    _, position = _varint(message, position)
                elif wire_type == _LENGTH_DELIMITED:
                    size, position = _varint(message, position)
                    if (inner := messages.get(key >> 3)) is not None:
                        parts.append((position, position + size, inner))
                    elif key >> 3 in packed:
                        numbers += size
                    position += size
                else:
                    position += _SIZES[wire_type]
    except (IndexError, KeyError):
        pass  # damaged: protobuf does not parse more of it, and reports it
    return fields, numbers


@cache
def _kinds(descriptor: Descriptor) -> tuple[dict[int, Descriptor], frozenset[int]]:
    """Return the fields that are messages, and those that are lists of numbers."""
    messages, packed = {}, set()
    for field in descriptor.fields:
        if field.message_type is not None:
            messages[field.number] = field.message_type
        elif field.type not in (FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_STRING):
            packed.add(field.number)
    return messages, frozenset(packed)


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
        if shift == 70:
            raise IndexError("a number of more than ten bytes")
