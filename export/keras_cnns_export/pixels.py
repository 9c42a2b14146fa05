"""Check that TensorFlow and Pillow read the same pixels from encoded images, to within one level.

Both apply the EXIF orientation of a JPEG, drop transparency without blending, convert CMYK and
palettes to RGB, and keep the upper 8 of 16 bits. Grey becomes RGB if the model takes RGB, and RGB
becomes grey, by the formula of ITU-R 601-2, if the model takes grey.
"""

import dataclasses
import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from keras_cnns.data.images import read_pixels
from keras_cnns_export.batches import Array
from keras_cnns_export.contract import Pixels, Preprocessing
from keras_cnns_export.errors import FormatError, failures_of

_IMAGES = 200
MIN_WITHIN_ONE_LEVEL = 0.999  # minimum fraction of the pixels that must agree to within one level
# kind of image -> Pillow's mode, and the arguments of Pillow's `save`.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "JPEG": ("RGB", {"format": "JPEG", "quality": 90}),
    "progressive JPEG": ("RGB", {"format": "JPEG", "quality": 75, "progressive": True}),
    "grey JPEG": ("L", {"format": "JPEG", "quality": 90}),
    "CMYK JPEG": ("CMYK", {"format": "JPEG", "quality": 90}),
    **{f"JPEG of orientation {n}": ("RGB", {"format": "JPEG", "exif": n}) for n in range(1, 9)},
    "PNG": ("RGB", {"format": "PNG"}),
    "grey PNG": ("L", {"format": "PNG"}),
    "grey PNG with alpha": ("LA", {"format": "PNG"}),
    "RGBA PNG": ("RGBA", {"format": "PNG"}),
    "palette PNG": ("P", {"format": "PNG"}),
    "1-bit PNG": ("1", {"format": "PNG"}),
    "16-bit PNG": ("I;16", {"format": "PNG"}),
}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The results of the comparison, for the report."""

    figures: Pixels
    within_one_level: dict[str, float]  # kind -> 0..1
    levels: list[int]  # the number of pixels that differ by 0, 1, 2 ... levels
    # The image with the largest mean difference: its kind, the pixels that were compared with
    # Pillow's, and Pillow's pixels.
    worst: tuple[str, Array, Array]


@failures_of("saved_model")
def check_pixels(preprocessing: Preprocessing) -> Comparison:
    """Compare the pixels that a SavedModel reads from encoded images with those of Pillow.

    Raises:
        FormatError: less than 99.9 % of the pixels agree to within one level.
    """
    import tensorflow as tf

    from keras_cnns_export.image_bytes import decode_batch

    decode = tf.function(
        lambda image_bytes: decode_batch(image_bytes, preprocessing),
        input_signature=[tf.TensorSpec((None,), tf.string)],
        autograph=False,
    )
    comparison = compare_pixels(
        lambda contents: decode(tf.constant(contents)).numpy(), preprocessing
    )
    fraction = comparison.figures.within_one_level
    if fraction < MIN_WITHIN_ONE_LEVEL:
        raise FormatError(
            "saved_model",
            "saved_model: TensorFlow and Pillow read encoded images differently: "
            f"{fraction:.3%} of the pixels agree to within one level, but at least "
            f"{MIN_WITHIN_ONE_LEVEL:.1%} must; the image that differs most is a "
            f"{comparison.worst[0]}",
        )
    return comparison


def compare_pixels(
    decode: Callable[[list[bytes]], Array], preprocessing: Preprocessing, images: int = _IMAGES
) -> Comparison:
    """Compare a decoder with Pillow on generated images.

    Args:
        decode: a function that decodes and preprocesses N encoded images to uint8 [N, H, W, C].
        preprocessing: the preprocessing of `decode`, which is repeated with Pillow.
        images: the number of images.
    """
    levels = np.arange(256)
    counts: dict[str, Array] = {}  # kind of image -> the number of pixels with each difference
    largest_sum = -1  # of the differences in an image
    # The images are compared one by one, because 200 large images may not fit into memory.
    for kind, content in generated_images(images):
        given, expected = decode([content])[0], read_by_pillow(content, preprocessing)
        difference = np.abs(given.astype(np.int16) - expected)
        count = np.bincount(difference.ravel(), minlength=256)
        if (of_image := int(count @ levels)) > largest_sum:
            largest_sum, worst = of_image, (kind, given, expected)
        counts[kind] = counts.get(kind, np.zeros(256, np.int64)) + count
    by_kind = {kind: _within_one_level(each) for kind, each in counts.items()}
    total = np.sum(list(counts.values()), axis=0)
    largest = int(total.nonzero()[0].max())
    figures = Pixels(
        images=images,
        within_one_level=_within_one_level(total),
        largest_difference=largest,
        mean_difference=float(total @ levels / total.sum()),
    )
    return Comparison(figures, by_kind, total[: largest + 1].tolist(), worst)


def _within_one_level(counts: Array) -> float:
    """Return the fraction of the pixels that differ by at most one level."""
    return float(counts[:2].sum() / counts.sum())


def generated_images(count: int) -> Iterator[tuple[str, bytes]]:
    """Yield generated images, each as a tuple of its kind and its encoded bytes.

    The images have smooth colours with noise. Their heights and widths are odd numbers up to 401.
    """
    random = np.random.default_rng(0)
    for index in range(count):
        kind = list(KINDS)[index % len(KINDS)]
        mode, options = KINDS[kind]
        height, width = (2 * int(half) + 1 for half in random.integers(8, 201, 2))
        coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
        noisy = np.clip(smooth + random.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
        if mode == "I;16":
            image = Image.fromarray(noisy[..., 0].astype(np.uint16) * 256 + 77)
        else:
            image = Image.fromarray(noisy).convert(mode)
        if mode in ("RGBA", "LA"):
            image.putalpha(Image.fromarray(noisy[..., 0]))
        yield kind, encode(image, **options)


def encode(image: Image.Image, *, exif: int | None = None, **options: Any) -> bytes:
    """Return an image as the bytes of a file, with the orientation `exif` in its EXIF data."""
    if exif is not None:
        tags = Image.Exif()
        tags[0x010F], tags[0x0112] = "maker", exif
        options["exif"] = tags.tobytes()
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()


def read_by_pillow(content: bytes, preprocessing: Preprocessing) -> Array:
    """Decode and preprocess one encoded image as the server does: uint8 [H, W, C]."""
    pixels = read_pixels(content, preprocessing.channels)
    image = Image.fromarray(pixels[..., 0] if preprocessing.channels == 1 else pixels)
    height, width = preprocessing.size
    shorter = min(image.size)
    resized = [round(side * preprocessing.resize_shorter / shorter) for side in image.size]
    left, top = (resized[0] - width) // 2, (resized[1] - height) // 2
    x_scale, y_scale = (side / new for side, new in zip(image.size, resized, strict=True))
    box = (left * x_scale, top * y_scale, (left + width) * x_scale, (top + height) * y_scale)
    crop = image.resize((width, height), Image.Resampling.BILINEAR, box=box)
    return np.asarray(crop).reshape(height, width, preprocessing.channels)
