"""Draw class activation maps (Zhou et al. 2016), which show the evidence for a class."""

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from keras_cnns_serve.repository.manifest import Preprocessing

from .decoding import PILLOW_MAX_PIXELS, read_image

OPACITY = 0.5  # default opacity of the colours over the image
# From low to high values: blue, cyan, green, yellow, red.
_COLOURS = np.array([[0, 0, 143], [0, 191, 255], [64, 220, 64], [255, 220, 0], [160, 0, 0]])


def overlay(
    content: bytes,
    activation: NDArray[Any],
    preprocessing: Preprocessing,
    opacity: float = OPACITY,
) -> bytes:
    """Return a PNG of the preprocessed image with the map over it.

    Args:
        content: the encoded image.
        activation: the map [h, w], whose values can have any range.
        preprocessing: the conversion of the image into pixels.
        opacity: opacity of the colours over the image; 0: only the image, 1: only the colours.
    """
    # The size of the image was checked before its prediction.
    pixels = read_image(content, preprocessing, PILLOW_MAX_PIXELS)
    base = np.broadcast_to(pixels, (*pixels.shape[:2], 3)).astype(np.float32)
    blended = (1 - opacity) * base + opacity * heat(activation, pixels.shape[:2])
    png = BytesIO()
    Image.fromarray(blended.round().astype(np.uint8)).save(png, "PNG")
    return png.getvalue()


def heat(activation: NDArray[Any], size: tuple[int, ...]) -> NDArray[np.float32]:
    """Return a map [h, w] as colours [H, W, 3], 0 to 255, from blue (minimum) to red (maximum)."""
    finite = np.nan_to_num(activation.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(finite.min()), float(finite.max())
    scaled = (finite - low) / (high - low) if high > low else np.zeros_like(finite)
    height, width = size
    image = Image.fromarray(scaled).resize((width, height), Image.Resampling.BILINEAR)
    values = np.clip(np.asarray(image), 0, 1)
    points = np.linspace(0, 1, len(_COLOURS))
    channels = [np.interp(values, points, _COLOURS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)
