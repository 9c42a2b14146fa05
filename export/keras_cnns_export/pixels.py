"""Encoded images of every kind, read by TensorFlow and by Pillow: the same pixels, to a level.

How each kind is read, in both: the EXIF orientation of a JPEG is applied; transparency is dropped,
not blended; CMYK becomes RGB; a palette its colours; of 16 bits the upper 8 stay; grey becomes RGB
where the model takes RGB, and RGB grey by ITU-R 601-2.
"""

import dataclasses
import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from keras_cnns.data.images import read_pixels
from keras_cnns_export.contract import Pixels, Preprocessing
from keras_cnns_export.graph import Array

IMAGES = 200
# How an image of each kind is made: Pillow's mode, and what its `save` is given.
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
    """What the report shows of the images."""

    figures: Pixels
    within_one_level: dict[str, float]  # 0..1, by kind
    levels: list[int]  # how many pixels differ by 0, 1, 2 ... levels
    worst: tuple[str, Array, Array]  # of the image that differs most: its kind, both readings


def compare_pixels(
    decode: Callable[[list[bytes]], Array], preprocessing: Preprocessing, images: int = IMAGES
) -> Comparison:
    """Read made images of odd sizes with `decode`, encoded [N] -> uint8 [N, H, W, C], and Pillow.

    The figures go into model.json; below 99.9 % within one level, a version is not published.
    """
    made = list(made_images(images))
    given = decode([content for _, content in made]).astype(int)
    expected = np.stack([read_by_pillow(content, preprocessing) for _, content in made])
    difference = np.abs(given - expected)
    per_image = difference.reshape(images, -1)
    of_kind = {
        name: float((per_image[[kind == name for kind, _ in made]] <= 1).mean())
        for name in dict(made)
    }
    worst = int(per_image.mean(axis=1).argmax())
    figures = Pixels(
        images=images,
        within_one_level=float((difference <= 1).mean()),
        largest_difference=int(difference.max()),
        mean_difference=float(difference.mean()),
    )
    pair = made[worst][0], given[worst].astype(np.uint8), expected[worst]
    return Comparison(figures, of_kind, np.bincount(difference.ravel()).tolist(), pair)


def made_images(count: int) -> Iterator[tuple[str, bytes]]:
    """Images of odd sizes up to 401 pixels, smooth colours with noise: their kind, and encoded."""
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
    """An image as the bytes of a file, with this orientation in its EXIF."""
    if exif is not None:
        tags = Image.Exif()
        tags[0x010F], tags[0x0112] = "maker", exif
        options["exif"] = tags.tobytes()
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()


def read_by_pillow(content: bytes, preprocessing: Preprocessing) -> Array:
    """Return one encoded image as the server reads it: uint8 [H, W, C]."""
    pixels = read_pixels(content, preprocessing.channels)
    image = Image.fromarray(pixels[..., 0] if preprocessing.channels == 1 else pixels)
    height, width = preprocessing.size
    shorter = min(image.size)
    resized = [round(side * preprocessing.resize_shorter / shorter) for side in image.size]
    left, top = (resized[0] - width) // 2, (resized[1] - height) // 2
    across, down = (side / new for side, new in zip(image.size, resized, strict=True))
    box = (left * across, top * down, (left + width) * across, (top + height) * down)
    cut = image.resize((width, height), Image.Resampling.BILINEAR, box=box)
    return np.asarray(cut).reshape(height, width, preprocessing.channels)
