"""Decode and preprocess images with TensorFlow operations, for the SavedModel's bytes signature.

The preprocessing is described in model.json, and the server implements it with Pillow. It has these
steps: decode, apply the EXIF orientation, drop transparency, keep the upper 8 of 16 bits, convert
to grey or RGB, resize the shorter side (antialiased, with the same aspect ratio), crop the centre.
After decoding, the pixels are preprocessed by the same code as in training.

The operations read JPEG and PNG. They raise an error for files that TensorFlow would decode
differently from Pillow: CMYK without Adobe's marker, and images whose orientation is not in plain
EXIF data.
"""

from typing import Any

import tensorflow as tf

from keras_cnns.data.decoding import set_upright
from keras_cnns.data.preprocessing import preprocess
from keras_cnns_export.contract import Preprocessing

# Maximum number of segments in a JPEG that are searched for EXIF data. These data are usually in
# the first or second segment.
_MAX_SEGMENTS = 64
_MAX_CHUNKS = 2**16  # maximum number of chunks in a PNG that are searched for EXIF data
_HEADER_BYTES = 2**20  # number of bytes at the start of a JPEG that are searched for segments
_PNG = b"\x89PNG\r\n\x1a\n"
# The start of a JPEG segment with EXIF data; None stands for a byte of the segment's length.
_EXIF = (0xFF, 0xE1, None, None, *b"Exif\0\0")
_ADOBE = (0xFF, 0xEE, None, None, *b"Adobe")
_START_OF_SCAN = (0xFF, 0xDA)
# If the EXIF data have no orientation, Pillow applies the orientation of the XMP data.
_TURNED_BY_XMP = r'tiff:Orientation(="|>)[2-8]'
# The graph cannot read two kinds of data in a PNG: compressed XMP data, and EXIF or XMP data in a
# text chunk, as old versions of ImageMagick wrote them. Since they may contain the orientation, the
# graph rejects a PNG with such data unless it finds an orientation elsewhere.
_UNREADABLE = r"XML:com\.adobe\.xmp\x00\x01|Raw profile type (exif|APP1|xmp)"


def decode_batch(image_bytes: Any, preprocessing: Preprocessing) -> Any:
    """Decode and preprocess encoded images: string [N] -> the graph's input, uint8 [N, H, W, C]."""
    height, width = preprocessing.size
    pixels = tf.TensorSpec((height, width, preprocessing.channels), tf.uint8)
    return tf.map_fn(
        lambda content: _decode(content, preprocessing), image_bytes, fn_output_signature=pixels
    )


def _decode(content: Any, preprocessing: Preprocessing) -> Any:
    """Decode and preprocess one encoded image: string [] -> uint8 [H, W, C].

    Raises:
        InvalidArgumentError: TensorFlow would decode the file differently from Pillow; the graph
            raises this when it runs.
    """
    is_jpeg = tf.strings.substr(content, 0, 2) == b"\xff\xd8"
    image = tf.cond(is_jpeg, lambda: _decode_jpeg(content), lambda: _decode_png(content))
    return preprocess(image, preprocessing)


def _decode_jpeg(content: Any) -> Any:
    header = tf.strings.substr(content, 0, _HEADER_BYTES)
    data = _Bytes(header)
    at = data.find_segment(_EXIF)
    _require(
        data.begins(at, _EXIF) | data.begins(at, _START_OF_SCAN),
        "the JPEG is damaged, or its headers are too long: the orientation can only be read from "
        f"the first {_MAX_SEGMENTS} segments and the first {_HEADER_BYTES:,} bytes",
    )
    orientation = _orientation_from(data, at)
    _require(
        (orientation > 0) | ~_contains(header, _TURNED_BY_XMP),
        "the JPEG's orientation is in XMP, not in EXIF; rotate its pixels",
    )
    _require(
        tf.cond(
            tf.io.extract_jpeg_shape(content)[2] == 4,
            lambda: data.begins(data.find_segment(_ADOBE), _ADOBE),
            lambda: tf.constant(True),
        ),
        "the JPEG is CMYK without Adobe's marker; convert it to RGB",
    )
    # Pillow uses the method INTEGER_ACCURATE. With TensorFlow's default method, the pixels would
    # differ from Pillow's by up to 4 levels.
    image = tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE")
    return set_upright(image, orientation)


def _decode_png(content: Any) -> Any:
    is_png = tf.strings.substr(content, 0, len(_PNG)) == _PNG
    _require(is_png, "the bytes are neither a JPEG nor a PNG")
    orientation = _png_orientation(content)
    _require(
        (orientation > 0) | ~_contains(content, f"{_TURNED_BY_XMP}|{_UNREADABLE}"),
        "the PNG's orientation is in XMP or text, not in EXIF; rotate its pixels",
    )
    return set_upright(tf.io.decode_png(content, channels=3), orientation)


def jpeg_orientation(content: Any) -> Any:
    """Return the orientation in a JPEG's EXIF data: string [] -> int32 [], 0 if there is none."""
    data = _Bytes(content)
    return _orientation_from(data, data.find_segment(_EXIF))


def _orientation_from(data: "_Bytes", segment: Any) -> Any:
    return tf.where(data.begins(segment, _EXIF), data.orientation(segment + 10), 0)


def _png_orientation(content: Any) -> Any:
    """Return the orientation in a PNG's EXIF data: string [] -> int32 [], 0 if there is none."""

    def search() -> Any:
        data = _Bytes(content)
        at = data.find_chunk(b"eXIf")
        return tf.where(data.begins(at + 4, tuple(b"eXIf")), data.orientation(at + 8), 0)

    return tf.cond(_contains(content, "eXIf"), search, lambda: tf.constant(0))


class _Bytes:
    """The bytes of a string tensor, read within the graph; bytes beyond the end are 0."""

    def __init__(self, content: Any) -> None:
        # `decode_raw` needs at least one byte.
        self._data = tf.io.decode_raw(content + b"\0", tf.uint8)
        self._end = tf.size(self._data)

    def at(self, index: Any) -> Any:
        """Return the byte at an index: int32 [...] -> int32 [...]."""
        inside = (index >= 0) & (index < self._end)
        byte = tf.gather(self._data, tf.where(inside, index, 0))
        return tf.where(inside, tf.cast(byte, tf.int32), 0)

    def number(self, index: Any, size: int, big_endian: Any = True) -> Any:
        """Return the unsigned number of `size` bytes at an index."""
        parts = self.at(tf.expand_dims(index, -1) + tf.range(size))
        little = tf.constant([256**i for i in range(size)])
        weights = tf.where(big_endian, little[::-1], little)
        return tf.reduce_sum(parts * weights, axis=-1)

    def begins(self, index: Any, wanted: tuple[int | None, ...]) -> Any:
        """Return whether the data have these bytes at an index; None matches any byte."""
        offsets = tf.constant([i for i, byte in enumerate(wanted) if byte is not None])
        values = tf.constant([byte for byte in wanted if byte is not None])
        return tf.reduce_all(self.at(index + offsets) == values)

    def find_segment(self, wanted: tuple[int | None, ...]) -> Any:
        """Return the index of the first JPEG segment that begins with `wanted`.

        If no segment does, return the index at which the search ended.
        """

        def goes_on(at: Any) -> Any:
            is_segment = (self.at(at) == 0xFF) & ~self.begins(at, _START_OF_SCAN)
            return is_segment & ~self.begins(at, wanted)

        def following(at: Any) -> tuple[Any]:
            length = tf.maximum(self.number(at + 2, 2), 2)
            is_fill_byte = self.at(at + 1) == 0xFF
            return (at + tf.where(is_fill_byte, 1, 2 + length),)

        return tf.while_loop(
            goes_on, following, (tf.constant(2),), maximum_iterations=_MAX_SEGMENTS
        )[0]

    def find_chunk(self, name: bytes) -> Any:
        """Return the index of the first PNG chunk that has this name.

        If there is none, return the index at which the search ended.
        """
        return tf.while_loop(
            lambda at: (at < self._end) & ~self.begins(at + 4, tuple(name)),
            lambda at: (at + 12 + tf.maximum(self.number(at, 4), 0),),
            (tf.constant(len(_PNG)),),
            maximum_iterations=_MAX_CHUNKS,
        )[0]

    def orientation(self, start: Any) -> Any:
        """Return the orientation, 1 to 8, in EXIF data, or 0 if the data have none.

        The first two bytes determine the byte order. The first directory is a list of entries of 12
        bytes each, and offsets are relative to `start`.
        """
        big_endian = self.at(start) == ord("M")
        directory = start + self.number(start + 4, 4, big_endian)
        count = tf.clip_by_value(self.number(directory, 2, big_endian), 0, 512)
        entries = directory + 2 + 12 * tf.range(count)
        is_orientation = self.number(entries, 2, big_endian) == 0x0112
        is_long = self.number(entries + 2, 2, big_endian) == 4
        values = tf.where(
            is_long,
            self.number(entries + 8, 4, big_endian),
            self.number(entries + 8, 2, big_endian),
        )
        found = tf.reduce_max(tf.where(is_orientation, values, 0))
        valid = tf.where((found >= 1) & (found <= 8), found, 1)
        return tf.where(tf.reduce_any(is_orientation), valid, 0)


def _contains(content: Any, pattern: str) -> Any:
    """Return whether a regular expression matches somewhere in a string."""
    without = tf.strings.regex_replace(content, pattern, "", replace_global=False)
    return tf.strings.length(without) < tf.strings.length(content)


def _require(condition: Any, message: str) -> None:
    """Raise InvalidArgumentError when the graph runs and the condition is false."""
    tf.debugging.Assert(condition, [message])
