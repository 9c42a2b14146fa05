"""Image files, read as the server reads them."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP")
MODES = {1: "L", 3: "RGB"}
ORIENTATION = 0x0112  # EXIF's tag


def read_image(path: str | Path, channels: int) -> np.ndarray:
    """Return an image file's pixels, upright: uint8 [H, W, channels]; transparency is dropped.

    Args:
        path: of a JPEG, PNG or WebP file.
        channels: 1 for grey, 3 for RGB.

    Raises:
        ValueError: the file is not an image of these formats, or a damaged or a far too large one.
        OSError: the file cannot be read.
    """
    content = Path(path).read_bytes()
    try:
        with _opened(content) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):  # 16 bits a level; Pillow would clip, not scale
                image = Image.fromarray((np.asarray(image, np.uint16) >> 8).astype(np.uint8))
            pixels = np.asarray(image.convert(MODES[channels]))
    except Exception as error:
        raise ValueError(f"{path}: {error}") from error
    return pixels.reshape(*pixels.shape[:2], channels)


def read_header(content: bytes) -> tuple[str, tuple[int, int], int]:
    """Return an encoded image's format, (height, width) upright, and EXIF orientation, 1 to 8.

    Raises:
        ValueError: it is not a JPEG, PNG or WebP image, or one that is far too large.
    """
    with _opened(content) as image:
        orientation = image.getexif().get(ORIENTATION, 1)
        orientation = orientation if orientation in range(1, 9) else 1
        width, height = image.size
        size = (width, height) if orientation >= 5 else (height, width)
        return "JPEG" if image.format == "MPO" else image.format or "", size, orientation


@contextmanager
def _opened(content: bytes) -> Iterator[Image.Image]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        except UnidentifiedImageError:
            raise ValueError("not a JPEG, PNG or WebP image") from None
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise ValueError(str(error)) from None
        yield image
