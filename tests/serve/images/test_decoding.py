import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from keras_cnns_serve.errors import DamagedImageError, ImageTooLargeError, UnsupportedImageError
from keras_cnns_serve.images.decoding import (
    SMALL_BYTES,
    EncodedImage,
    _resize_and_crop,
    read_image,
    read_small_image,
)
from keras_cnns_serve.repository.manifest import Preprocessing
from tests.serve.conftest import grey

RGB = Preprocessing(16, (16, 16), 3)
GREY = Preprocessing(16, (16, 16), 1)
RED = (255, 0, 0)
EXIF = Image.Exif()
EXIF[0x0112] = 6


def encode(image: Image.Image, encoding: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, encoding, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    crc = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def huge_png(width: int, height: int, chunks: bytes = b"") -> bytes:
    """A small file whose header announces width x height pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunks + data + chunk(b"IEND")


def rle_bmp(width: int, height: int, runs: bytes) -> bytes:
    start = 14 + 40 + 1024
    file = struct.pack("<IHHI", start + len(runs), 0, 0, start)
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 256)
    return b"BM" + file + header + bytes(1024) + runs


def scans(count: int, side: int = 16) -> bytes:
    """A progressive JPEG with so many scans."""
    content = encode(Image.new("RGB", (side, side)), "JPEG", progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    missing = count - content.count(b"\xff\xda")
    return content[:-2] + last * missing + content[-2:]


def with_segments(segments: bytes) -> bytes:
    return JPEG[:2] + segments + JPEG[2:]


def with_blocks(blocks: bytes) -> bytes:
    gif = encode(Image.new("P", (16, 16)), "GIF")
    first = gif.index(b",")
    return gif[:first] + blocks + gif[first:]


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
NO_COMPONENT = bytes.fromhex(  # a progressive JPEG without colour components
    "ffd8 ffc2 000b 08 0020 0020 00 011100 ffda 0008 010100003f00 61616161 ffd9"
)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", UnsupportedImageError, "there is no image: the body has 0 bytes"),
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


TEXT = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**20 - 1)))
PROFILE = chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**20 - 1)))
SHORT_EXIF = b"\xff\xe1\0\x0aExif\0\0\0\0"


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (scans(101), ImageTooLargeError, "JPEG image has more than 100 scans; encoders write at"),
        (scans(90, 3000), ImageTooLargeError, "3,000 pixels in 90 scans; this server decodes at"),
        (
            huge_png(1, 49_000_000),
            ImageTooLargeError,
            "1 x 49,000,000 pixels; a side can have at most 65",
        ),
        (
            huge_png(49_000_000, 1),
            ImageTooLargeError,
            "49,000,000 x 1 pixels; a side can have at most 65",
        ),
        (huge_png(8, 8, TEXT * 17), DamagedImageError, "header is damaged"),
        (huge_png(8, 8, PROFILE * 11), DamagedImageError, "several colour profiles; at most"),
        (huge_png(8, 8, chunk(b"abCd") * 30_000), ImageTooLargeError, "more chunks, blocks or r"),
        (huge_png(8, 8, chunk(b"IDAT") * 30_000), ImageTooLargeError, "more chunks, blocks or r"),
        (with_blocks(b"!\xfe\1a\0" * 20_000), ImageTooLargeError, "more chunks, blocks or runs"),
        (rle_bmp(700, 700, b"\1\5" * 490_000), ImageTooLargeError, "more chunks, blocks or runs"),
        (rle_bmp(7000, 7000, b""), ImageTooLargeError, "7,000 x 7,000 pixels, more than 2,097,15"),
        (with_segments(b"\xff\xfe\0\2" * 1001), DamagedImageError, "more than 1,000 segments bef"),
        (with_segments(SHORT_EXIF * 17), DamagedImageError, "more than 16 segments of EXIF data"),
        (scans(10)[:-2] + b"\xff\1" * 1001, DamagedImageError, "more than 1,000 segments between"),
        (JPEG[: JPEG.index(b"\xff\xda")] + b"\xff\xd9", DamagedImageError, "header is damaged"),
        (b"\xff\xd8\xff\xda\0\x0c\3", DamagedImageError, "header is damaged or cut short"),
        (NO_COMPONENT, DamagedImageError, "header is damaged"),
    ],
)
def test_what_would_take_long_is_refused_before_it_does(
    content: bytes, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as refused:
        read_image(content, RGB)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "content",
    [
        scans(100),
        encode(picture(40, 40), "JPEG", progressive=True, exif=b"Exif\0\0" + b"\xff\xda" * 101),
        encode(picture(40, 40), "JPEG", progressive=True) + JPEG * 101,
        with_segments(SHORT_EXIF * 16),
        rle_bmp(16, 16, b"\x10\5\0\0" * 16 + b"\0\1"),
        rle_bmp(300, 300, (b"\1\5" * 300 + b"\0\0") * 300),
        huge_png(8, 8, TEXT * 15 + PROFILE),
    ],
    ids=["100 scans", "scans in EXIF", "images after it", "EXIF", "runs", "many runs", "texts"],
)
def test_unusual_images_are_read(content: bytes) -> None:
    assert read_image(content, RGB).shape == (16, 16, 3)


def test_the_work_of_an_image_is_its_pixels_times_its_scans() -> None:
    assert EncodedImage(encode(picture(30, 20), "JPEG"), RGB).work == 600
    assert EncodedImage(scans(40), RGB).work == 40 * 256
    assert EncodedImage(grey(3, (30, 20)), RGB).work == 600
    assert EncodedImage(rle_bmp(30, 20, b""), RGB).work == 60_000


MEASURE = """
import sys
from pathlib import Path
from keras_cnns_serve.images.decoding import EncodedImage
from keras_cnns_serve.repository.manifest import Preprocessing

def resident(which):
    status = Path("/proc/self/status").read_text()
    return int(status.split(which + ":")[1].split()[0]) * 1024

for path in sys.argv[1:]:
    content = Path(path).read_bytes()
    for _ in range(2):  # what libraries keep for ever is allocated by the first
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS")
        image = EncodedImage(content, Preprocessing(256, (224, 224), 3))
        memory = image.memory
        image.read()
        peak = resident("VmHWM") - before
        del image
    print(memory, peak)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports the peak of a process")
def test_the_memory_of_decoding_is_known_before(tmp_path: Path) -> None:
    image = Image.fromarray(np.tile(np.asarray(picture(200, 125)), (8, 8, 1)))
    deep = Image.fromarray(np.asarray(image)[..., 0].astype(np.uint16) << 8)
    cases = [
        encode(image, "JPEG"),
        encode(image, "JPEG", progressive=True, subsampling="4:4:4"),
        encode(image, "JPEG", exif=EXIF),
        encode(image.convert("L"), "JPEG"),
        encode(image.convert("CMYK"), "JPEG"),
        encode(image.convert("P"), compress_level=1),
        encode(image.convert("RGBA"), compress_level=1),
        encode(deep, compress_level=1),
        encode(image, "WEBP", method=0),
        encode(image.convert("P"), "GIF"),
        encode(image, "BMP"),
    ]
    paths = [tmp_path / str(number) for number in range(len(cases))]
    for path, content in zip(paths, cases, strict=True):
        path.write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *paths],
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},  # what is freed goes back at once
        capture_output=True,
        text=True,
        check=True,
    )
    for line in done.stdout.splitlines():
        memory, peak = map(int, line.split())
        assert 0.7 * memory < peak < memory + 3e6, done.stdout
    assert len(done.stdout.splitlines()) == len(cases)


def test_the_limit_counts_pixels_of_the_header() -> None:
    assert read_image(grey(3, (20, 20)), GREY, max_pixels=400).shape == (16, 16, 1)
    with pytest.raises(ImageTooLargeError, match="20 x 20 pixels, more than 399"):
        read_image(grey(3, (20, 20)), GREY, max_pixels=399)


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (1, 1)])
def test_extreme_shapes_cost_no_memory(size: tuple[int, int]) -> None:
    pixels = read_image(grey(9, size), Preprocessing(256, (224, 224), 1))
    assert pixels.shape == (224, 224, 1)
    assert (pixels == 9).all()


def jpegs(image: Image.Image) -> Iterator[bytes]:
    """Every subsampling and quality, baseline and progressive."""
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        for quality in (5, 50, 75, 95):
            for progressive in (False, True):
                options = {"subsampling": subsampling, "progressive": progressive}
                yield encode(image, "JPEG", quality=quality, **options)


@pytest.mark.parametrize("size", [(3, 2), (8, 8), (17, 31), (32, 32), (63, 40), (257, 131)])
@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_the_fast_decoder_gives_pillows_pixels(
    size: tuple[int, int], mode: str, channels: int
) -> None:
    whole = Preprocessing(min(size), size[::-1], channels)
    for content in jpegs(picture(*size).convert(mode)):
        image = EncodedImage(content, whole)
        assert image._plain
        pillow = np.asarray(Image.open(io.BytesIO(content)))
        np.testing.assert_array_equal(image.read(), pillow.reshape(*size[::-1], channels))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(("channels", "wanted"), [(3, "RGB"), (1, "L")])
def test_an_array_that_pillow_takes_as_it_is_gives_the_pixels_of_a_copy(
    mode: str, channels: int, wanted: str
) -> None:
    preprocessing = Preprocessing(40, (30, 35), channels)
    for content in jpegs(picture(150, 90).convert(mode)):
        copied = _resize_and_crop(Image.open(io.BytesIO(content)).convert(wanted), preprocessing)
        pixels = read_image(content, preprocessing)
        assert pixels.flags.c_contiguous
        np.testing.assert_array_equal(pixels, np.asarray(copied).reshape(pixels.shape))


@pytest.mark.parametrize(
    "content",
    [
        encode(picture(8, 8), "JPEG", exif=EXIF),
        encode(picture(8, 8), "JPEG", xmp=b'<x tiff:Orientation="6"/>'),
        encode(picture(8, 8).convert("CMYK"), "JPEG"),
        encode(picture(8, 8), "JPEG", keep_rgb=True),
        encode(picture(8, 8)),
    ],
    ids=["exif", "xmp", "cmyk", "rgb", "png"],
)
def test_what_the_fast_decoder_would_read_otherwise_is_left_to_pillow(content: bytes) -> None:
    assert not EncodedImage(content, RGB)._plain


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
