"""Encoded image in, pixels out, by TensorFlow's operations: what the SavedModel does with bytes.

It reads the contract's preprocessing as the server does with Pillow: decode, apply the EXIF
orientation of a JPEG, drop transparency, keep the upper 8 of 16 bits, convert to grey or RGB,
resize the shorter side (antialiased, the aspect kept), crop the centre. JPEG and PNG only. From the
decoded pixels on it is training's own reading.
"""

import dataclasses
from typing import Any

import tensorflow as tf

from keras_cnns.data.decoding import set_upright
from keras_cnns.data.preprocessing import preprocess
from keras_cnns_export.contract import Preprocessing

_MAX_SEGMENTS = 64  # of a JPEG before its EXIF is given up; cameras write it first or second


def decode_batch(image_bytes: Any, preprocessing: Preprocessing) -> Any:
    """Encoded images, string [N] -> the graph's input, uint8 [N, H, W, C]."""
    height, width = preprocessing.size
    pixels = tf.TensorSpec((height, width, preprocessing.channels), tf.uint8)
    return tf.map_fn(
        lambda content: decode(content, preprocessing), image_bytes, fn_output_signature=pixels
    )


def decode(content: Any, preprocessing: Preprocessing) -> Any:
    """One encoded image, a string -> uint8 [H, W, C]."""
    is_jpeg = tf.strings.substr(content, 0, 2) == b"\xff\xd8"
    image = tf.cond(
        is_jpeg,
        # INTEGER_ACCURATE is Pillow's transform; the default is off by up to 4 levels.
        lambda: set_upright(
            tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE"),
            exif_orientation(content),
        ),
        lambda: tf.io.decode_png(content, channels=3),
    )
    return preprocess(image, dataclasses.asdict(preprocessing))


def exif_orientation(content: Any) -> Any:
    """The orientation that a JPEG's EXIF gives, 1 to 8; 1 where there is none or it is damaged.

    The segments of the file are walked through up to the one that begins with "Exif"; its first
    directory is a list of entries of 12 bytes, in the byte order that its first letters name.
    """
    content = tf.strings.substr(content, 0, 2**20) + b"\0"  # so that there is a byte to look at
    data = tf.cast(tf.io.decode_raw(content, tf.uint8), tf.int32)
    end = tf.size(data)

    def byte(at: Any) -> Any:
        inside = (at >= 0) & (at < end)
        return tf.where(inside, tf.gather(data, tf.where(inside, at, 0)), 0)

    def number(at: Any, size: int, big_endian: Any) -> Any:
        parts = [byte(at + i) for i in range(size)]
        big = sum(part * 256 ** (size - 1 - i) for i, part in enumerate(parts))
        little = sum(part * 256**i for i, part in enumerate(parts))
        return tf.where(big_endian, big, little)

    def is_exif(at: Any) -> Any:
        header = (0xFF, 0xE1, None, None, *b"Exif\0\0")
        wanted = [byte(at + i) == value for i, value in enumerate(header) if value is not None]
        return tf.reduce_all(wanted)

    def goes_on(at: Any) -> Any:
        is_segment = (byte(at) == 0xFF) & (byte(at + 1) != 0xDA)  # before the scan
        return is_segment & ~is_exif(at)

    (at,) = tf.while_loop(
        goes_on,
        lambda at: (at + 2 + tf.maximum(number(at + 2, 2, True), 2),),
        (tf.constant(2),),
        maximum_iterations=_MAX_SEGMENTS,
    )
    start = at + 10  # of the TIFF header, from which its offsets count
    big_endian = byte(start) == ord("M")
    directory = start + number(start + 4, 4, big_endian)
    count = tf.clip_by_value(number(directory, 2, big_endian), 0, 512)
    entries = directory + 2 + 12 * tf.range(count)
    is_orientation = number(entries, 2, big_endian) == 0x0112
    found = tf.reduce_max(tf.where(is_orientation, number(entries + 8, 2, big_endian), 0))
    is_good = is_exif(at) & (found >= 1) & (found <= 8)
    return tf.where(is_good, found, 1)
