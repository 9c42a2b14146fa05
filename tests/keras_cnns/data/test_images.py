"""Image files: read upright, in the channels asked for, or refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_cnns.data import read_image

PIXELS = np.arange(12 * 10 * 3, dtype=np.uint8).reshape(12, 10, 3)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_the_channels(mode: str, channels: int, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    if mode == "I;16":
        image = Image.fromarray(PIXELS[..., 0].astype(np.uint16) << 8)
    else:
        image = Image.fromarray(PIXELS).convert(mode)
    image.save(path)
    pixels = read_image(path, channels)
    assert pixels.shape == (12, 10, channels)
    assert pixels.dtype == np.uint8
    if mode == "RGB" and channels == 3:
        np.testing.assert_array_equal(pixels, PIXELS)
    if mode == "I;16":
        np.testing.assert_array_equal(pixels[..., 0], PIXELS[..., 0])


def test_a_turned_photograph_is_set_upright(tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS)
    exif = image.getexif()
    exif[0x0112] = 6  # turn by 90 degrees
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg", 3).shape == (10, 12, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not an image", "not a JPEG, PNG, WebP, BMP or GIF image"),
        (b"\x89PNG\r\n\x1a\n", "image.png"),
    ],
)
def test_what_is_no_image_is_refused_by_name(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_image(path, 3)


def test_a_damaged_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(PIXELS).save(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"image\.png: "):
        read_image(path, 3)
