"""Decode images with Pillow, with which every other decoder must agree.

The EXIF orientation is applied; transparency is dropped, not blended; palettes and CMYK are
converted to RGB; the upper 8 of 16 bits are kept; the first frame of an animation is read.
"""

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
_FORMAT_NAMES = "JPEG, PNG, WebP, BMP or GIF"
_MODES = {1: "L", 3: "RGB"}
_MAX_FILE_BYTES = 400 * 10**6  # a BMP of the largest image that Pillow opens has 358 MB
_ORIENTATION = 0x0112  # the tag in EXIF

# Pillow warns about unusual metadata, such as truncated EXIF, in photographs that it reads
# correctly.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True)
class Header:
    """The header of an encoded image.

    Attributes:
        format: Pillow's name of the format: JPEG, PNG, WEBP, BMP or GIF.
        mode: Pillow's name of the mode: L, RGB, CMYK, P, ...
        size: height and width of the upright image, in pixels.
        orientation: the EXIF orientation, 1 to 8.
    """

    format: str
    mode: str
    size: tuple[int, int]
    orientation: int


def read_image(path: str | Path, channels: int) -> np.ndarray:
    """Return the upright pixels of an image file, without transparency: uint8 [H, W, channels].

    Args:
        path: a JPEG, PNG, WebP, BMP or GIF file.
        channels: 1 for grey, 3 for RGB.

    Raises:
        ValueError: the file is not an image of these formats, is damaged, or is far too large.
        OSError: the file cannot be read.
    """
    try:
        return read_pixels(read_content(Path(path)), channels)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_content(path: Path) -> bytes:
    """Return the content of an image file.

    Raises:
        ValueError: the file is far too large for an image.
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    if size > _MAX_FILE_BYTES:
        raise ValueError(
            f"it has {size / 1e6:,.0f} MB; an image file can have at most "
            f"{_MAX_FILE_BYTES / 1e6:,.0f} MB"
        )
    return path.read_bytes()


def read_pixels(content: bytes, channels: int = 3) -> np.ndarray:
    """Return the upright pixels of an encoded image: uint8 [H, W, channels].

    Raises:
        ValueError: the content is not an image of these formats, is damaged, or is far too large.
    """
    with _open(content) as image:
        try:
            image.load()
            upright = _set_upright(image)
            if upright.mode.startswith("I"):  # a 16-bit mode, which Pillow would clip at 255
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            elif upright.mode == "P":
                # In a direct conversion to RGB, a transparent entry of the palette would lose its
                # colour.
                upright = upright.convert("RGBA")
            pixels = np.asarray(upright.convert(_MODES[channels]))
        except Exception as error:  # damaged data can make Pillow raise nearly any error
            raise ValueError(f"damaged or cut short: {error}") from error
    return pixels.reshape(*pixels.shape[:2], channels)


def read_header(content: bytes) -> Header:
    """Return the header of an encoded image.

    Raises:
        ValueError: the content is not an image of these formats, or is far too large.
    """
    with _open(content) as image:
        try:
            orientation = image.getexif().get(_ORIENTATION, 1)
        except Exception:  # damaged EXIF data
            orientation = 1
        orientation = orientation if orientation in range(1, 9) else 1
        width, height = image.size
        size = (width, height) if orientation >= 5 else (height, width)
        kind = "JPEG" if image.format == "MPO" else image.format or ""
        return Header(kind, image.mode, size, orientation)


def _open(content: bytes) -> Image.Image:
    """Open an encoded image without decoding it."""
    try:
        image = Image.open(io.BytesIO(content), formats=_FORMATS)
    except UnidentifiedImageError:
        raise ValueError(f"not a {_FORMAT_NAMES} image") from None
    except Exception as error:  # a hostile header can make Pillow raise nearly any error
        raise ValueError(str(error)) from error
    width, height = image.size
    if Image.MAX_IMAGE_PIXELS and width * height > Image.MAX_IMAGE_PIXELS:
        raise ValueError(
            f"{width:,} x {height:,} pixels exceed the limit of {Image.MAX_IMAGE_PIXELS:,} "
            "(PIL.Image.MAX_IMAGE_PIXELS)"
        )
    return image


def _set_upright(image: Image.Image) -> Image.Image:
    """Apply the orientation of EXIF or XMP; ignore damaged EXIF data."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image
