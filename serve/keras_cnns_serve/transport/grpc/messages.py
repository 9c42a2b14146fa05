"""Decompress and parse the messages of gRPC calls, within limits.

If a message consists of empty messages, protobuf allocates up to 64 bytes for each of its bytes,
and needs up to a second to parse it. Packed numbers need more memory than their encoding. Before a
long message is parsed, its fields and its bytes of packed numbers are therefore counted.
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

# First bytes of compressed messages. An uncompressed request cannot begin with them: the first byte
# of gzip is invalid in protobuf, and the first byte of zlib would mean a field 15, which no request
# has.
_GZIP = b"\x1f\x8b"
_DEFLATE = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
SHORT_BYTES = 2**16  # the fields of messages with more bytes are counted
# Maximum number of fields; a thousand tf.Examples with images have a quarter of that number.
MAX_FIELDS = 20_000
_INLINE_FIELDS = 500  # counting this many fields is faster than waking up a thread
_BYTES_OF_FIELD = 256  # maximum memory of a field
_BYTES_OF_NUMBERS = 16  # maximum memory for each byte of packed numbers
COPIES = 3  # copies of a message: the received bytes, the parsed message, and its arrays
_SIZES = {1: 8, 3: 0, 4: 0, 5: 4}  # number of bytes of a value, by its wire type
_VARINT, _LENGTH_DELIMITED = 0, 2


def parser(method: MethodDescriptor) -> Callable[[bytes], Any]:
    """Return the function that parses a method's requests.

    Raises, when it is called:
        InvalidInputError: the message is damaged.
    """
    from_string = GetMessageClass(method.input_type).FromString

    def parse(message: bytes) -> Any:
        try:
            return from_string(message)
        except DecodeError as error:
            raise InvalidInputError(f"the message cannot be parsed: {error}") from error

    return parse


async def decompress_message(
    message: bytes, max_bytes: int, claim: Claim, deadline: float | None
) -> bytes:
    """Return a message, decompressed if it is compressed with gzip or deflate.

    Args:
        message: the message; grpcio does not report its encoding.
        max_bytes: the maximum size after decompression.
        claim: the claim of memory, which grows with the decompressed bytes.
        deadline: `time.monotonic()` of the request's deadline, or None.

    Raises:
        InputTooLargeError: the decompressed message is longer than `max_bytes`.
        QueueFullError: there is not enough free memory.
        InvalidInputError: the message is damaged or truncated.
        DeadlineExceededError: the deadline has passed.
    """
    start = message[:2]
    if start == _GZIP or start in _DEFLATE:
        return await decompress_async(message, "gzip", max_bytes, claim, "message", deadline)
    return message


async def memory_of_async(message: bytes, descriptor: Descriptor, deadline: float | None) -> int:
    """Do the same as `memory_of`, in a thread if the message has many fields.

    Raises:
        DeadlineExceededError: the deadline (`time.monotonic()`) has passed.
    """
    try:
        return memory_of(message, descriptor, _INLINE_FIELDS)
    except InputTooLargeError:
        # Continue outside this block. Inside it, this exception would become the context of a later
        # error, which would then keep the message in memory.
        pass
    return await PARSING.call(deadline, memory_of, message, descriptor)


def memory_of(message: bytes, descriptor: Descriptor, max_fields: int = MAX_FIELDS) -> int:
    """Return the maximum memory that a message needs, including its parsed copy and its arrays.

    Raises:
        InputTooLargeError: the message is long and has more than `max_fields` fields.
    """
    if len(message) <= SHORT_BYTES:
        return len(message) * (COPIES + _BYTES_OF_FIELD // 4)
    fields, numbers = _count(message, descriptor, max_fields)
    return COPIES * len(message) + _BYTES_OF_FIELD * fields + _BYTES_OF_NUMBERS * numbers


def _count(message: bytes, descriptor: Descriptor, max_fields: int) -> tuple[int, int]:
    """Return the number of fields and the number of bytes of packed numbers; stop at damaged data.

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
                        f"the message has more than {max_fields:,} fields; send the values of "
                        "tensors as raw bytes, or send fewer images in a request"
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
        pass  # the message is damaged, which protobuf's parser will report
    return fields, numbers


@cache
def _kinds(descriptor: Descriptor) -> tuple[dict[int, Descriptor], frozenset[int]]:
    """Return a dict from field number to message descriptor, for the fields that are messages.

    The second result is the set of the field numbers of numeric fields.
    """
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
