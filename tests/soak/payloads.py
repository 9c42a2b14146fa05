"""Bodies that cost a server far more than their sender, each built once and when it is needed."""

import gzip
import io
import random
import struct
import zlib
from functools import cache

from PIL import Image

BODY_BYTES = 31_000_000  # just below the default of --max-body-bytes
MESSAGE_BYTES = 8_000_000
BOUNDARY = "soak"


@cache
def lists(element: str, inputs: str = '{"instances":[%s]}') -> bytes:
    """Return JSON of as many elements as fit a body."""
    count = (BODY_BYTES - len(inputs)) // (len(element) + 1)
    return (inputs % ",".join([element] * count)).encode()


@cache
def packed_lists(element: str) -> bytes:
    """Return the same, packed by gzip: 30 to 140 KB."""
    return gzip.compress(lists(element), 9)


@cache
def nested_v2() -> bytes:
    """Return a request of the Open Inference Protocol whose data are nested lists."""
    frame = '{"inputs":[{"name":"images","datatype":"UINT8","shape":[1,32,32,1],"data":[%s]}]}'
    return lists("[[[[0]]]]", frame)


@cache
def progressive_jpeg(size: int = 100_000, side: int = 7000) -> bytes:
    """Return a progressive JPEG of scans without data, each of which is decoded over the image."""
    start = b"".join(
        [
            b"\xff\xd8",
            _segment(0xDB, bytes([0]) + bytes([1]) * 64),
            _segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + bytes([1, 0x11, 0])),
            _segment(0xC4, bytes([0x00, 1, *[0] * 15, 0x00])),  # DC: a code for no difference
            _segment(0xC4, bytes([0x10, 1, *[0] * 15, 0x00])),  # AC: a code for the block's end
            _segment(0xDA, bytes([1, 1, 0, 0, 0, 0])),
        ]
    )
    scan = _segment(0xDA, bytes([1, 1, 0, 1, 63, 0]))
    return start + scan * ((size - len(start)) // len(scan)) + b"\xff\xd9"


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


@cache
def large_jpeg(side: int = 7000) -> bytes:
    """Return a JPEG of a few hundred bytes and 49 megapixels, most of whose data is missing."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 30, 90)).save(buffer, "JPEG")
    content = bytearray(buffer.getvalue())
    at = content.index(b"\xff\xc0")
    content[at + 5 : at + 9] = struct.pack(">HH", side, side)
    return bytes(content)


@cache
def narrow_png(height: int = 49_000_000) -> bytes:
    """Return a PNG of one column."""
    header = struct.pack(">IIBBBBB", 1, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(2 * height), 9)
    chunks = [(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


@cache
def photographs(count: int = 28) -> bytes:
    """Return a multipart form of 12-megapixel JPEGs, of about a megabyte each."""
    noise = Image.frombytes("RGB", (500, 375), random.Random(0).randbytes(500 * 375 * 3))
    buffer = io.BytesIO()
    noise.resize((4000, 3000), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=20)
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
    return (head.encode() + buffer.getvalue() + b"\r\n") * count + f"--{BOUNDARY}--\r\n".encode()


@cache
def png(side: int) -> bytes:
    """Return a small grey image with a pattern."""
    buffer = io.BytesIO()
    Image.frombytes("L", (side, side), random.Random(7).randbytes(side * side)).save(buffer, "PNG")
    return buffer.getvalue()


# Protobuf by hand: what no library writes. The numbers of the fields are in the server's protos.


def varint(number: int) -> bytes:
    """Return a number as protobuf writes it."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def field(number: int, content: bytes) -> bytes:
    """Return a field of bytes: a string, a message or packed numbers."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def _entries(number: int) -> bytes:
    """Return a map of 800,000 keys without values."""
    keys = (f"{index:06x}".encode() for index in range(MESSAGE_BYTES // 10))
    return b"".join(field(number, field(1, key)) for key in keys)


_V1 = field(1, field(1, b"digits"))  # model_spec
_V2 = field(1, b"digits")  # model_name


def _tensor_v1(values: bytes) -> bytes:
    shape = b"".join(field(2, bytes([8]) + varint(size)) for size in (1, 32, 32, 1))
    tensor = bytes([8, 4]) + field(2, shape) + values  # DT_UINT8
    return _V1 + field(2, field(1, b"images") + field(2, tensor))


def _tensor_v2(datatype: bytes, contents: bytes) -> bytes:
    shape = field(3, bytes([1, 32, 32, 1]))
    tensor = field(1, b"images") + field(2, datatype) + shape + field(5, contents)
    return _V2 + field(5, tensor)


def repeated_values(model: str, side: int, inputs: int) -> bytes:
    """Return a PredictRequest with inputs of two numbers, which fill 32 MiB of float32 each."""
    sizes = (2**23 // side**2, side, side, 1)
    shape = b"".join(field(2, bytes([8]) + varint(size)) for size in sizes)
    tensor = bytes([8, 1]) + field(2, shape) + field(5, struct.pack("<2f", 0, 1))  # DT_FLOAT
    names = [b"images", *(b"%d" % number for number in range(1, inputs))]
    entries = (field(2, field(1, name) + field(2, tensor)) for name in names)
    return field(1, field(1, model.encode())) + b"".join(entries)


@cache
def protobuf(case: str) -> bytes:
    """Return a hostile message by its name in PROTOBUF_V1 or PROTOBUF_V2."""
    many = MESSAGE_BYTES // 2
    match case:
        case "v1-strings":  # output_filter
            return _V1 + b"\x1a\0" * many
        case "v1-map":  # inputs
            return _V1 + _entries(2)
        case "v1-string_val":
            return _tensor_v1(b"\x42\0" * many)
        case "v1-int_val":
            return _tensor_v1(field(7, b"\1" * BODY_BYTES))
        case "v1-unpacked":  # int_val, a tag for each
            return _tensor_v1(b"\x38\1" * many)
        case "v1-unknown":  # a field that does not exist
            return _V1 + b"\x7a\0" * many
        case "v2-outputs":
            return _V2 + b"\x32\0" * many
        case "v2-inputs":
            return _V2 + b"\x2a\0" * many
        case "v2-map":  # parameters
            return _V2 + _entries(4)
        case "v2-raw":  # raw_input_contents
            return _V2 + b"\x3a\0" * many
        case "v2-bytes_contents":
            return _tensor_v2(b"BYTES", b"\x42\0" * many)
        case "v2-uint_contents":
            return _tensor_v2(b"UINT8", field(4, b"\1" * BODY_BYTES))
    raise KeyError(case)


PROTOBUF_V1 = ("v1-strings", "v1-map", "v1-string_val", "v1-int_val", "v1-unpacked", "v1-unknown")
PROTOBUF_V2 = (
    "v2-outputs",
    "v2-inputs",
    "v2-map",
    "v2-raw",
    "v2-bytes_contents",
    "v2-uint_contents",
)
