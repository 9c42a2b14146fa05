"""Decode images inside of tf.data, bit for bit as Pillow does."""

import tensorflow as tf

from keras_cnns.data.images import Header, read_pixels

_WEBP = b"WEBP"


def decode(content: tf.Tensor) -> tf.Tensor:
    """Decode an image without applying its EXIF orientation: bytes -> uint8 [h, w, 3].

    The function uses TensorFlow's operations, which are fast. Call it only for images that
    `decode_as_pillow` can decode.
    """
    pixels = tf.cond(
        tf.strings.substr(content, 8, 4) == _WEBP,
        lambda: tf.io.decode_webp(content, channels=3)[0],
        # decode_jpeg reads PNG too. Its default method differs from Pillow by up to 4 levels.
        lambda: tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE"),
    )
    return tf.ensure_shape(pixels, (None, None, 3))


def decode_with_pillow(content: tf.Tensor) -> tf.Tensor:
    """Return the upright pixels of any image that Pillow reads: bytes -> uint8 [h, w, 3]."""
    pixels = tf.numpy_function(read_pixels, [content], tf.uint8, stateful=False)
    return tf.ensure_shape(pixels, (None, None, 3))


def decode_as_pillow(content: bytes, header: Header) -> tf.Tensor | None:
    """Return the pixels that `decode` reads; None if it fails or would differ from Pillow.

    TensorFlow differs from Pillow for three kinds of images: it drops the transparent colour of a
    GIF, ignores the palette of a BMP, and inverts a CMYK image that lacks Adobe's marker. It
    rejects a WebP image with an alpha channel or several frames, and a PNG image that lacks its
    last chunk. It decodes all other images as Pillow does.
    """
    if header.format in ("BMP", "GIF") or header.mode == "CMYK":
        return None
    try:
        return decode(tf.constant(content))
    except tf.errors.OpError:
        return None


def set_upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Rotate and mirror an image by its EXIF orientation, 1 to 8: [h, w, c] -> [h', w', c]."""
    as_stored, flip = (lambda: image), tf.image.flip_left_right

    def turned(quarters: int, mirrored: bool = False) -> tf.Tensor:
        return tf.image.rot90(flip(image) if mirrored else image, quarters)

    return tf.switch_case(
        tf.cast(orientation, tf.int32) - 1,
        [
            as_stored,
            lambda: flip(image),
            lambda: turned(2),
            lambda: turned(2, mirrored=True),
            lambda: turned(1, mirrored=True),
            lambda: turned(3),
            lambda: turned(3, mirrored=True),
            lambda: turned(1),
        ],
        default=as_stored,
    )
