"""TensorFlow's reading of encoded images; `test_pixels.py` compares it with Pillow's."""

import io
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_cnns_export.contract import Preprocessing
from keras_cnns_export.image_bytes import decode_batch, jpeg_orientation
from keras_cnns_export.pixels import encode

SQUARE = Preprocessing(resize_shorter=16, crop=16, channels=3)
PICTURE = Image.fromarray(np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3))


@pytest.fixture(scope="module")
def decode() -> Any:
    signature = [tf.TensorSpec((None,), tf.string)]
    return tf.function(lambda contents: decode_batch(contents, SQUARE), input_signature=signature)


def test_a_batch_may_mix_kinds_and_sizes_or_be_empty(decode: Any) -> None:
    contents = [
        encode(PICTURE, format="PNG"),
        encode(PICTURE.resize((33, 41)), format="JPEG"),
        encode(PICTURE.convert("L").resize((1, 1)), format="PNG"),
    ]
    pixels = decode(contents).numpy()
    assert (pixels.shape, pixels.dtype) == ((3, 16, 16, 3), np.uint8)
    # It has the right size, so it is not resized.
    np.testing.assert_array_equal(pixels[0], np.asarray(PICTURE))
    assert len(np.unique(pixels[2])) == 1
    assert decode(tf.constant([], tf.string)).shape == (0, 16, 16, 3)


def test_16_bits_keep_their_upper_eight_and_transparency_is_dropped(decode: Any) -> None:
    deep = np.arange(256, dtype=np.uint16).reshape(16, 16) * 256 + 255
    clear = PICTURE.copy()
    clear.putalpha(0)
    contents = [encode(Image.fromarray(deep), format="PNG"), encode(clear, format="PNG")]
    pixels = decode(contents).numpy()
    np.testing.assert_array_equal(pixels[0, :, :, 0], np.arange(256).reshape(16, 16))
    np.testing.assert_array_equal(pixels[1], np.asarray(PICTURE))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"\xff\xd8",
        b"\x89PNG\r\n\x1a\n",
        encode(PICTURE, format="JPEG")[:400],
        encode(PICTURE, format="PNG")[:100],
        encode(PICTURE, format="WEBP"),
        encode(PICTURE, format="GIF"),
        encode(PICTURE, format="BMP"),
    ],
)
def test_what_is_no_whole_jpeg_or_png_is_an_error(content: bytes, decode: Any) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode([content])


def jpeg(*segments: bytes) -> bytes:
    """A JPEG of 16x16 with these segments at its beginning."""
    content = encode(PICTURE, format="JPEG")
    return content[:2] + b"".join(segments) + content[2:]


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content


def exif(orientation: int, order: str = "little", size: int = 2) -> bytes:
    tiff = b"II*\0" if order == "little" else b"MM\0*"

    def number(value: int, size: int) -> bytes:
        return value.to_bytes(size, order)  # type: ignore[arg-type]

    entries = [(0x010E, 2, 4), (0x0112, {2: 3, 4: 4}[size], 1)]
    values = [b"abc\0", number(orientation, size).ljust(4, b"\0")]
    tiff += number(8, 4) + number(len(entries), 2)
    for (tag, kind, count), value in zip(entries, values, strict=True):
        tiff += number(tag, 2) + number(kind, 2) + number(count, 4) + value
    return b"Exif\0\0" + tiff + number(0, 4)


CASES: dict[str, tuple[bytes, int]] = {
    "none": (jpeg(), 0),
    "little endian": (jpeg(segment(0xE1, exif(6))), 6),
    "big endian": (jpeg(segment(0xE1, exif(3, "big"))), 3),
    "after others": (jpeg(segment(0xE0, b"JFIF\0" + bytes(9)), segment(0xE1, exif(8))), 8),
    "after XMP": (jpeg(segment(0xE1, b"http://ns"), segment(0xE1, exif(5))), 5),
    "of 0": (jpeg(segment(0xE1, exif(0))), 1),
    "of 9": (jpeg(segment(0xE1, exif(9))), 1),
    "of a long number": (jpeg(segment(0xE1, exif(7, "big", size=4))), 7),
    "after fill bytes": (jpeg(b"\xff\xff", segment(0xE1, exif(6))), 6),
    "cut short": (jpeg(segment(0xE1, exif(6)[:20])), 0),
    "pointing outside": (jpeg(segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\x7f")), 0),
    "no end": (b"\xff\xd8" + segment(0xE0, bytes(100))[:20], 0),
    "no bytes": (b"", 0),
}


@pytest.mark.parametrize("case", CASES)
def test_the_orientation_is_found_and_damage_is_none(case: str) -> None:
    content, expected = CASES[case]
    assert int(jpeg_orientation(tf.constant(content))) == expected


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_pillow_turns_it(orientation: int, decode: Any) -> None:
    content = jpeg(segment(0xE1, exif(orientation)))
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(decode([content])[0], np.asarray(upright))
