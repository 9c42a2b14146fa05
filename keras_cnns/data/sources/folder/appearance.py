"""Measure how an image looks: a thumbnail for near-duplicates, sharpness and brightness.

The measurements depend on the pixels alone, so that all commands get the same results.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

SIDE = 16  # pixels of a thumbnail
# An image counts as having one colour if the standard deviation of its grey levels (0 to 255) is
# below this. If the mean of its thumbnail is subtracted, the rest is noise, which does not depend
# on what the image shows.
FLAT_DEVIATION = 2.0
# A photo has this sharpness if it is blurred by a Gaussian whose standard deviation is a fiftieth
# of the longer side. Sharp photos have a sharpness of 0.1 to 1, and white noise has 20.
_BLURRY_SHARPNESS = 0.004
DARK_BRIGHTNESS = 64  # level, 0 to 255: an image is dark if 99 % of its pixels are darker
_SHARPNESS_SIDE = 128  # pixels; larger images are reduced before their sharpness is measured
# The rounding of levels increases the mean square of their Laplacian by (4^2 + 4 * 1^2) * 1/12.
_ROUNDING = 20 / 12
_MIN_SHARPNESS_SIDE = 32  # pixels; nearly all edges in smaller images are one pixel wide


@dataclass(frozen=True)
class Appearance:
    """Measurements of an image's appearance.

    Attributes:
        thumbnail: SIDE x SIDE grey levels of the upright image, row by row.
        deviation: the standard deviation of the grey levels, 0 to 127.5.
        sharpness: (m - r) / v, where m is the mean square of the Laplacian of the grey levels, r
            the part of m that is due to rounding, and v the variance of the grey levels. The
            sharpness does not depend on the contrast. It is infinite if the image is too small or
            has one colour.
        brightness: the 99th percentile of the grey levels, 0 to 255.
    """

    thumbnail: bytes
    deviation: float
    sharpness: float
    brightness: float

    @property
    def is_flat(self) -> bool:
        """Return whether the image has one colour."""
        return self.deviation < FLAT_DEVIATION

    @property
    def is_blurry(self) -> bool:
        """Return whether the image has several colours, but no detail at a size of 128 pixels."""
        return self.sharpness < _BLURRY_SHARPNESS

    @property
    def is_dark(self) -> bool:
        """Return whether nearly all pixels are dark."""
        return self.brightness < DARK_BRIGHTNESS


def measure_appearance(pixels: np.ndarray, orientation: int = 1) -> Appearance:
    """Measure the appearance of an image.

    Args:
        pixels: uint8 [h, w, 3], as the file stores them.
        orientation: the EXIF orientation, 1 to 8, by which the thumbnail is set upright.
    """
    grey = Image.fromarray(pixels).convert("L")
    thumbnail = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    scale = _SHARPNESS_SIDE / max(grey.size)
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in grey.size)
        grey = grey.resize((width, height), Image.Resampling.BOX)
    levels = np.asarray(grey, np.float32)
    deviation, sharpness = float(levels.std()), math.inf
    if min(levels.shape) >= _MIN_SHARPNESS_SIDE and deviation >= FLAT_DEVIATION:
        across = levels[1:-1, :-2] + levels[1:-1, 2:]
        laplacian = 4 * levels[1:-1, 1:-1] - across - levels[:-2, 1:-1] - levels[2:, 1:-1]
        detail = max(0.0, float(np.square(laplacian).mean()) - _ROUNDING)
        sharpness = detail / deviation**2
    rank = int(0.99 * (levels.size - 1))
    brightness = float(np.partition(levels, rank, axis=None)[rank])
    return Appearance(_upright(thumbnail, orientation).tobytes(), deviation, sharpness, brightness)


def _upright(levels: np.ndarray, orientation: int) -> np.ndarray:
    """Rotate and mirror levels [h, w] by EXIF's orientation, as `decoding.set_upright` does."""
    mirrored = orientation in (2, 4, 5, 7)
    quarters = {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(orientation, 0)
    return np.rot90(levels[:, ::-1] if mirrored else levels, quarters)
