import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from keras_cnns_serve.errors import DamagedImageError, ImageTooLargeError, UnsupportedImageError
from keras_cnns_serve.images.decoding import SMALL_BYTES, _plain_jpeg, read_image, read_small_image
from keras_cnns_serve.repository.manifest import Preprocessing
from tests.serve.conftest import grey

RGB = Preprocessing(16, (16, 16), 3)
GREY = Preprocessing(16, (16, 16), 1)
RED = (255, 0, 0)


def encode(image: Image.Image, encoding: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, encoding, **options)
    return buffer.getvalue()


def huge_png(width: int, height: int) -> bytes:
    """A small file whose header announces width x height pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def noise(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def picture(width: int, height: int) -> Image.Image:
    """Smooth colours with some noise, as a camera gives."""
    rng = np.random.default_rng(width * height)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    noisy = smooth + rng.normal(0, 12, smooth.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def solid(mode: str, color: Any) -> Image.Image:
    return Image.new(mode, (16, 16), color)


def deep(channels: int, level: int) -> Image.Image:
    assert channels == 1
    return Image.fromarray(np.full((16, 16), level, np.uint16))


def palette() -> Image.Image:
    image = Image.new("P", (16, 16), 1)
    image.putpalette([0, 0, 0, *RED])
    return image


def animation() -> dict[str, Any]:
    return {"save_all": True, "append_images": [Image.new("RGB", (16, 16), "blue")]}


@pytest.mark.parametrize(
    ("content", "pixel"),
    [
        (encode(solid("RGB", RED)), RED),
        (encode(solid("RGB", RED), "WEBP", lossless=True), RED),
        (encode(solid("L", 7)), (7, 7, 7)),
        (encode(solid("1", 1)), (255, 255, 255)),
        (encode(solid("LA", (7, 0))), (7, 7, 7)),
        (encode(solid("RGBA", (*RED, 0))), RED),
        (encode(palette()), RED),
        (encode(palette(), transparency=1), RED),
        (encode(palette(), transparency=b"\x80\x00"), RED),
        (encode(deep(1, 0x1234)), (0x12, 0x12, 0x12)),
        (encode(solid("CMYK", (0, 255, 255, 0)), "JPEG", quality=100), (255, 0, 0)),
        (encode(solid("RGB", RED), "WEBP", lossless=True, **animation()), RED),
        (encode(solid("RGB", RED), "PNG", **animation()), RED),
        (encode(solid("RGB", RED), "GIF", **animation()), RED),
        (encode(palette(), "GIF", transparency=1), RED),
        (encode(solid("RGB", RED), "BMP"), RED),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else str(value),
)
def test_every_kind_of_pixel_becomes_rgb(content: bytes, pixel: tuple[int, ...]) -> None:
    pixels = read_image(content, RGB)
    assert pixels.shape == (16, 16, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.broadcast_to(np.array(pixel, np.uint8), pixels.shape))


def test_an_image_of_the_right_size_is_not_touched() -> None:
    image = noise(16, 16)
    np.testing.assert_array_equal(read_image(encode(image), RGB), np.asarray(image))
    np.testing.assert_array_equal(
        read_image(encode(image), GREY)[..., 0], np.asarray(image.convert("L"))
    )


@pytest.mark.parametrize("size", [(50, 37), (37, 50), (16, 40), (300, 200), (5, 9), (16, 16)])
@pytest.mark.parametrize("crop", [(16, 16), (12, 16), (8, 4)])
def test_equals_resizing_the_whole_and_cropping_then(
    size: tuple[int, int], crop: tuple[int, int]
) -> None:
    image = noise(*size)
    whole = image.resize([round(n * 16 / min(size)) for n in size], Image.Resampling.BILINEAR)
    top, left = (whole.height - crop[0]) // 2, (whole.width - crop[1]) // 2
    wanted = whole.crop((left, top, left + crop[1], top + crop[0]))
    pixels = read_image(encode(image), Preprocessing(16, crop, 3))
    difference = np.abs(pixels.astype(int) - np.asarray(wanted))
    assert pixels.shape == (*crop, 3)
    assert difference.max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(orientation: int) -> None:
    upright = Image.new("RGB", (16, 16), "white")
    upright.paste(RED, (0, 0, 8, 4))  # in the upper left
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = read_image(encode(stored, exif=exif), RGB)
    np.testing.assert_array_equal(pixels, np.asarray(upright))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")  # read_image's own filter
@pytest.mark.parametrize("exif", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"garbage"])
def test_unreadable_exif_is_no_reason_to_refuse(exif: bytes) -> None:
    assert read_image(encode(solid("RGB", RED), "JPEG", exif=exif), RGB).shape == (16, 16, 3)


JPEG = encode(noise(64, 64), "JPEG")
PNG = encode(noise(64, 64))


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", UnsupportedImageError, "there is no image: 0 bytes"),
        (b"hello", UnsupportedImageError, "these 5 bytes are not an image in JPEG, "),
        (bytes(10_000), UnsupportedImageError, "these 10,000 bytes are not"),
        (encode(solid("RGB", RED), "TIFF"), UnsupportedImageError, "not an image in JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", UnsupportedImageError, "not an image in JPEG"),
        (JPEG[: len(JPEG) // 2], DamagedImageError, "JPEG image is damaged or cut short"),
        (JPEG[:20], DamagedImageError, "header is damaged or cut short"),
        (PNG[: len(PNG) // 2], DamagedImageError, "PNG image is damaged or cut short"),
        (PNG[:20], DamagedImageError, "header is damaged or cut short"),
        (PNG[:1000] + b"XXXX" + PNG[1004:], DamagedImageError, "PNG image is damaged"),
        (encode(noise(64, 64), "WEBP")[:400], DamagedImageError, "header is damaged or cut short"),
        (huge_png(50_000, 50_000), ImageTooLargeError, "far more than 50,000,000 pixels"),
        (huge_png(10_000, 8_000), ImageTooLargeError, "10,000 x 8,000 pixels, more than 50,0"),
        (huge_png(2**31 - 1, 2**31 - 1), ImageTooLargeError, "more than 50,000,000 pixels"),
        (huge_png(0, 8), DamagedImageError, ""),
        (huge_png(6_000, 8_000), DamagedImageError, "PNG image is damaged or cut short"),
    ],
)
def test_bad_images_are_refused(content: bytes, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as refused:
        read_image(content, RGB)
    assert message in str(refused.value)


def test_the_limit_counts_pixels_of_the_header() -> None:
    assert read_image(grey(3, (20, 20)), GREY, max_pixels=400).shape == (16, 16, 1)
    with pytest.raises(ImageTooLargeError, match="20 x 20 pixels, more than 399"):
        read_image(grey(3, (20, 20)), GREY, max_pixels=399)


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (1, 1)])
def test_extreme_shapes_cost_no_memory(size: tuple[int, int]) -> None:
    pixels = read_image(grey(9, size), Preprocessing(256, (224, 224), 1))
    assert pixels.shape == (224, 224, 1)
    assert (pixels == 9).all()


@pytest.mark.parametrize("size", [(3, 2), (8, 8), (17, 31), (32, 32), (63, 40), (257, 131)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_fast_decoder_gives_pillows_pixels(size: tuple[int, int], mode: str) -> None:
    """Every subsampling and quality, baseline and progressive: not one level differs."""
    image = picture(*size).convert(mode)
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        for quality in (5, 50, 75, 95):
            for progressive in (False, True):
                options = {"subsampling": subsampling, "progressive": progressive}
                content = encode(image, "JPEG", quality=quality, **options)
                fast = _plain_jpeg(content, 10**9)
                assert fast is not None
                pillow = np.asarray(Image.open(io.BytesIO(content)))
                np.testing.assert_array_equal(fast, pillow.reshape(fast.shape))


EXIF = Image.Exif()
EXIF[0x0112] = 6


@pytest.mark.parametrize(
    "content",
    [
        encode(picture(8, 8), "JPEG", exif=EXIF),
        encode(picture(8, 8), "JPEG", xmp=b'<x tiff:Orientation="6"/>'),
        encode(picture(8, 8).convert("CMYK"), "JPEG"),
        encode(picture(8, 8), "JPEG", keep_rgb=True),
        encode(picture(8, 8), "JPEG")[:-40],
        encode(picture(8, 8)),
    ],
    ids=["exif", "xmp", "cmyk", "rgb", "cut short", "png"],
)
def test_what_the_fast_decoder_would_read_otherwise_is_left_to_pillow(content: bytes) -> None:
    assert _plain_jpeg(content, 10**9) is None


@pytest.mark.parametrize(("mode", "preprocessing"), [("RGB", RGB), ("L", GREY)])
def test_a_thumbnail_is_decoded_at_once(mode: str, preprocessing: Preprocessing) -> None:
    content = encode(picture(16, 16).convert(mode), "JPEG", quality=90)
    pixels = read_small_image(content, preprocessing)
    assert pixels is not None
    np.testing.assert_array_equal(pixels, read_image(content, preprocessing))


@pytest.mark.parametrize(
    "content",
    [
        encode(picture(17, 16), "JPEG"),
        encode(picture(16, 16).convert("L"), "JPEG"),
        encode(picture(16, 16), "JPEG", exif=EXIF),
        encode(picture(16, 16), "JPEG")[:-40],
        encode(picture(16, 16), "JPEG") + bytes(SMALL_BYTES),
        encode(picture(16, 16)),
        b"",
    ],
    ids=["another size", "other channels", "exif", "cut short", "long", "png", "nothing"],
)
def test_what_is_no_thumbnail_is_left_to_a_thread(content: bytes) -> None:
    assert read_small_image(content, RGB) is None


def test_a_large_image_is_no_thumbnail_however_few_its_bytes() -> None:
    content = encode(solid("RGB", RED).resize((80, 80)), "JPEG")
    assert len(content) < SMALL_BYTES
    assert read_small_image(content, Preprocessing(80, (80, 80), 3)) is None


def test_a_thumbnail_has_no_more_pixels_than_may_be() -> None:
    content = encode(picture(16, 16), "JPEG")
    assert read_small_image(content, RGB, max_pixels=256) is not None
    assert read_small_image(content, RGB, max_pixels=255) is None
