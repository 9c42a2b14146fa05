"""Image files, read as the server reads them."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP")
MODES = {1: "L", 3: "RGB"}


def read_image(path: str | Path, channels: int) -> np.ndarray:
    """Return an image file's pixels, upright: uint8 [H, W, channels]; transparency is dropped.

    Args:
        path: of a JPEG, PNG or WebP file.
        channels: 1 for grey, 3 for RGB.

    Raises:
        ValueError: the file is not an image of these formats, or a damaged or a far too large one.
        OSError: the file cannot be read.
    """
    with Path(path).open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = ImageOps.exif_transpose(Image.open(file, formats=FORMATS))
            if image.mode.startswith("I"):  # 16 bits a level; Pillow would clip, not scale
                image = Image.fromarray((np.asarray(image, np.uint16) >> 8).astype(np.uint8))
            pixels = np.asarray(image.convert(MODES[channels]))
        except Exception as error:
            reason = "not a JPEG, PNG or WebP image" if "identify" in str(error) else str(error)
            raise ValueError(f"{path}: {reason}") from error
    return pixels.reshape(*pixels.shape[:2], channels)
