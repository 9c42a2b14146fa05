"""Encoded images to pixels inside of tf.data, bit for bit as Pillow reads them."""

import tensorflow as tf

WEBP = b"WEBP"


def decode(content: tf.Tensor) -> tf.Tensor:
    """Return an encoded JPEG, PNG, WebP, BMP or GIF's pixels: bytes -> uint8 [h, w, 3]."""
    pixels = tf.cond(
        tf.strings.substr(content, 8, 4) == WEBP,
        lambda: tf.io.decode_webp(content, channels=3)[0],
        # Reads PNG too. Its default is off by up to 4 levels of 255.
        lambda: tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE"),
    )
    return tf.ensure_shape(pixels, (None, None, 3))


def set_upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turn and mirror an image as its EXIF orientation, 1 to 8, asks: [h, w, c] -> [h, w, c]."""
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
