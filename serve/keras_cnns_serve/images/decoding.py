"""Decode images and preprocess them with Pillow, as model.json specifies.

The steps are: decode, apply the EXIF orientation, convert to grey or RGB, resize the shorter side
(antialiased, with the same aspect ratio), and crop the centre. Transparency is dropped, not
blended; 16-bit images keep their upper 8 bits; the first frame of an animation is used. Training
preprocesses images to the same pixels.
"""

import warnings
from io import BytesIO

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, PngImagePlugin

from keras_cnns_serve.errors import (
    DamagedImageError,
    ImageTooLargeError,
    ServeError,
    UnsupportedImageError,
)
from keras_cnns_serve.repository.manifest import Preprocessing

from .jpeg_header import JpegHeader, read_jpeg_header

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
_FORMAT_NAMES = "JPEG, PNG, WebP, BMP or GIF"
SIGNATURES = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"RIFF",
    b"BM",
    b"GIF8",
)  # first bytes of these formats
# Size of photographs from phones with the most pixels; such an image takes 200 MB in Pillow.
MAX_PIXELS = 50_000_000
# Maximum width and height in pixels. This is the limit of a JPEG; it applies to all formats,
# because Pillow allocates each row separately.
_MAX_SIDE = 65_535
# Maximum number of pixels times scans, since libjpeg processes the whole image in each scan. A
# progressive photograph has about 10 scans. The worst image within this limit takes a few seconds.
_MAX_WORK = 12 * MAX_PIXELS
# Maximum number of chunks or blocks, which Pillow reads one by one in Python; reading this many
# takes 20 ms. Larger files can have more: an additional one for each `_BYTES_PER_READ` bytes.
_MAX_READS, _BYTES_PER_READ = 20_000, 512
# Limits of run-length encoded BMPs, and the work per pixel: Pillow decodes these images in Python,
# in the worst case pixel by pixel.
_MAX_RLE_PIXELS, _MAX_RLE_READS, _RLE_WORK = 2**21, 500_000, 100
# Maximum number of colour profiles in a PNG; Pillow decompresses each of them to up to 1 MiB. A
# valid PNG has at most one.
_MAX_PROFILES = 10
# Maximum bytes and pixels of a thumbnail. A file with slightly more bytes could be a progressive
# JPEG with hundreds of scans.
SMALL_BYTES, _SMALL_PIXELS = 2**12, 2**12
PILLOW_MAX_PIXELS = 178_956_970  # Pillow itself rejects larger images
_INTERPOLATIONS = {"bilinear": Image.Resampling.BILINEAR}  # always antialiased in Pillow

# Markers of metadata (EXIF, XMP) with an orientation; images that contain them are decoded by
# Pillow.
_ORIENTATION = (b"Exif\0\0", b"tiff:Orientation")
# For each color space of a JPEG, the Pillow mode that has the layout of simplejpeg's array. RGBX
# has a fourth byte, which is not used.
_PLAIN_JPEG = {"YCbCr": "RGBX", "Gray": "L"}

_USUAL_SCANS = 20  # maximum number of scans that usual encoders write
_RLE = (1, 2)  # BMP's codes for run-length encoding
# Bytes of one pixel in these modes of Pillow; other modes have 4 bytes.
_PIXEL_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}
# Additional bytes per pixel, for libwebp's two canvases and a copy of the frame.
_WEBP_BYTES = 14

# Pillow warns about unusual metadata, such as truncated EXIF data, even if it decodes the image
# correctly. Such images are common (ImageNet has some), and their owners do not read the server's
# log.
warnings.filterwarnings("ignore", module=r"PIL\.")
# Maximum bytes of a PNG's text chunks after decompression; Pillow's default is 2**26.
PngImagePlugin.MAX_TEXT_MEMORY = 2**24


class EncodedImage:
    """An image whose header has been read, with the cost of decoding it.

    Args:
        content: the encoded image.
        preprocessing: the size and channels of the result.
        max_pixels: the maximum number of pixels, at most `PILLOW_MAX_PIXELS`.

    Raises:
        UnsupportedImageError: the image has a format that is not supported.
        ImageTooLargeError: the image has more than `max_pixels` pixels, or would take too long to
            decode.
        DamagedImageError: the header cannot be read.
    """

    __slots__ = ("_content", "_image", "_plain", "_preprocessing", "memory", "work")

    def __init__(
        self, content: bytes, preprocessing: Preprocessing, max_pixels: int = MAX_PIXELS
    ) -> None:
        self._content = content
        self._preprocessing = preprocessing
        self._image: Image.Image | None = None
        header = read_jpeg_header(content) if content.startswith(SIGNATURES[0]) else None
        if header is not None:
            _check_size(header.width, header.height, header.scans, max_pixels)
        self._plain = "" if header is None else _plain_colours(content, header)
        if header is not None and self._plain:
            pixels, mode, read = header.width * header.height, _PLAIN_JPEG[self._plain], 0
        else:
            image = self._image = _open(content, max_pixels)
            _check_size(*image.size, 1, max_pixels)
            pixels, mode, read = image.width * image.height, image.mode, _reading_bytes(image)
        additional = max(read, _conversion_bytes(mode, preprocessing.channels))
        scans, coefficients = (1, 0) if header is None else (header.scans, header.coefficients)
        self.work = pixels * (_RLE_WORK if _is_rle(self._image) else scans)
        # Peak memory in bytes: the memory of the image, plus that of its conversion or of libjpeg's
        # coefficients, whichever is larger.
        self.memory = pixels * _bytes(mode) + max(pixels * additional, coefficients)
        if self._image is not None and self._image.format == "WEBP":
            self.memory += len(content)  # libwebp copies the file

    def read(self) -> NDArray[np.uint8]:
        """Return the input of the graph, [H, W, C]; this method can be called only once.

        Raises:
            DamagedImageError: the image cannot be decoded completely.
        """
        if self._plain:
            pixels = _decode_plain(self._content, self._plain, self._preprocessing)
            if pixels is not None:
                return pixels
        # If libjpeg reports damage, open the image with Pillow, whose messages are better.
        image = self._image or _open(self._content, PILLOW_MAX_PIXELS)
        # Hold no reference, so that the image is freed when a converted copy replaces it.
        self._image = None
        encoding = image.format
        try:
            image.load()
            image = _upright(image)
            return _finish(image, self._preprocessing)
        except ServeError:
            raise
        except Exception as error:
            raise DamagedImageError(
                f"the {encoding} image is damaged or cut short: {error}"
            ) from error


def read_image(
    content: bytes, preprocessing: Preprocessing, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Decode an image to the input of the graph, [H, W, C].

    The arguments are those of `EncodedImage`.

    Raises:
        DamagedImageError: the image cannot be decoded completely.
        Also the errors of `EncodedImage`.
    """
    return EncodedImage(content, preprocessing, max_pixels).read()


def read_small_image(
    content: bytes, preprocessing: Preprocessing, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8] | None:
    """Decode a small JPEG; return None for all other images, and for a damaged JPEG.

    A small JPEG is a thumbnail without orientation that already has the size of the graph's input.
    Decoding it takes no longer than waking up a thread.
    """
    if (
        len(content) > SMALL_BYTES
        or not content.startswith(SIGNATURES[0])
        or _has_orientation(content)
    ):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours not in _PLAIN_JPEG or width * height > min(max_pixels, _SMALL_PIXELS):
            return None
        if not _fits((width, height), colours, preprocessing):
            return None
        return _decode_fitting(content, colours)
    except ValueError:  # damaged; Pillow's message is better
        return None


def _check_size(width: int, height: int, scans: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"the image has {width:,} x {height:,} pixels, more than {max_pixels:,}"
        )
    if max(width, height) > _MAX_SIDE:
        raise ImageTooLargeError(
            f"the image has {width:,} x {height:,} pixels; a side can have at most {_MAX_SIDE:,}"
        )
    if width * height * scans > _MAX_WORK:
        raise ImageTooLargeError(
            f"the JPEG image has {width:,} x {height:,} pixels in {scans} scans; this server "
            f"decodes at most {_MAX_WORK // (width * height)} scans of that size: save it with "
            "fewer scans, or as a baseline JPEG"
        )


def _has_orientation(header: bytes) -> bool:
    """Return whether a header may contain an orientation."""
    return any(marker in header for marker in _ORIENTATION)


def _plain_colours(content: bytes, header: JpegHeader) -> str:
    """Return the color space of a JPEG; "" if Pillow, and not simplejpeg, must decode it.

    simplejpeg calls libjpeg-turbo with Pillow's settings, and gives the same pixels faster.
    """
    # A damaged JPEG is decoded twice, by simplejpeg and then by Pillow. JPEGs with many scans are
    # therefore excluded.
    if _has_orientation(content[: header.first_scan]) or header.scans > _USUAL_SCANS:
        return ""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:  # damaged; Pillow's message is better
        return ""
    agree = (width, height) == (header.width, header.height)
    return str(colours) if agree and colours in _PLAIN_JPEG else ""


def _decode_plain(
    content: bytes, colours: str, preprocessing: Preprocessing
) -> NDArray[np.uint8] | None:
    """Decode and preprocess a JPEG with simplejpeg; return None if it is damaged."""
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(content)
        if _fits((width, height), colours, preprocessing):
            return _decode_fitting(content, colours)
        mode = _PLAIN_JPEG[colours]
        pixels = simplejpeg.decode_jpeg(content, "GRAY" if mode == "L" else mode)
    except ValueError:
        return None
    return _finish(
        Image.frombuffer(mode, (width, height), pixels, "raw", mode, 0, 1), preprocessing
    )


def _decode_fitting(content: bytes, colours: str) -> NDArray[np.uint8]:
    """Decode a JPEG that needs no preprocessing."""
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
        content, "GRAY" if colours == "Gray" else "RGB"
    )
    return pixels


def _fits(size: tuple[int, int], colours: str, preprocessing: Preprocessing) -> bool:
    """Return whether an image needs no conversion, resizing or cropping."""
    return (
        size[::-1] == preprocessing.crop
        and min(size) == preprocessing.resize_shorter
        and (colours == "Gray") == (preprocessing.channels == 1)
    )


def _open(content: bytes, max_pixels: int) -> Image.Image:
    """Read a header with Pillow; return the image, whose pixels are not decoded yet."""
    if not content:
        raise UnsupportedImageError("there is no image: the body has 0 bytes")
    if content.startswith(SIGNATURES[1]) and content.count(b"iCCP") > _MAX_PROFILES:
        raise DamagedImageError("the PNG image has several colour profiles; at most one is valid")
    reader = _Reader(content)
    try:
        image = Image.open(reader, formats=_FORMATS)
    except ServeError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLargeError(f"the image has far more than {max_pixels:,} pixels") from error
    except Exception as error:  # a hostile header can make Pillow raise nearly any error
        if content.startswith(SIGNATURES):
            raise DamagedImageError("the image's header is damaged or cut short") from error
        raise UnsupportedImageError(
            f"these {len(content):,} bytes are not an image in {_FORMAT_NAMES}"
        ) from error
    if _is_rle(image):
        reader.remaining = _MAX_RLE_READS
        if image.width * image.height > _MAX_RLE_PIXELS:
            raise ImageTooLargeError(
                f"the run-length encoded BMP image has {image.width:,} x {image.height:,} pixels, "
                f"more than {_MAX_RLE_PIXELS:,}: save it as a PNG"
            )
    return image


def _is_rle(image: Image.Image | None) -> bool:
    """Return whether an image is a run-length encoded BMP."""
    return image is not None and image.format == "BMP" and image.info.get("compression") in _RLE


class _Reader(BytesIO):
    """A file that permits a limited number of reads, and thus of chunks, blocks or runs.

    Raises:
        ImageTooLargeError: there were too many reads.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.remaining = _MAX_READS + len(content) // _BYTES_PER_READ  # number of reads

    def read(self, size: int | None = -1, /) -> bytes:
        self.remaining -= 1
        if self.remaining < 0:
            raise ImageTooLargeError(
                "the image has more chunks, blocks or runs than the server permits: save it "
                "again as a PNG or JPEG"
            )
        return super().read(size)


def _bytes(mode: str) -> int:
    """Return the bytes of one pixel in Pillow."""
    return _PIXEL_BYTES.get(mode, 4)


def _conversion_bytes(mode: str, channels: int) -> int:
    """Return how many additional bytes per pixel `_convert` needs."""
    if mode in _modes(channels):
        return 0
    if mode.startswith("I"):
        return 2 * _bytes(mode) + 1
    return (1 if channels == 1 else 4) + (4 if mode == "P" else 0)


def _reading_bytes(image: Image.Image) -> int:
    """Return how many additional bytes per pixel decoding and rotating an image need."""
    if image.format == "WEBP":
        return _WEBP_BYTES
    # The orientation of a PNG may follow its pixels, so it is not known yet.
    return _bytes(image.mode) if image.format == "PNG" or _is_turned(image) else 0


def _is_turned(image: Image.Image) -> bool:
    try:
        return image.getexif().get(ExifTags.Base.Orientation) in range(2, 9)
    except Exception:  # damaged EXIF data are ignored
        return False


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation."""
    if not _is_turned(image):
        return image  # exif_transpose would copy the image
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def _finish(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Convert, resize and crop an image to the input of the graph."""
    channels = preprocessing.channels
    fitted = _resize_and_crop(_convert(image, channels), preprocessing)
    pixels = np.frombuffer(fitted.tobytes("raw", "L" if channels == 1 else "RGB"), np.uint8)
    return pixels.reshape(*preprocessing.crop, channels)


def _modes(channels: int) -> tuple[str, ...]:
    """Return the modes of Pillow that need no conversion; the fourth byte of RGBX is dropped."""
    return ("L",) if channels == 1 else ("RGB", "RGBX")


def _convert(image: Image.Image, channels: int) -> Image.Image:
    """Convert to 8-bit grey or RGB, without transparency."""
    if image.mode.startswith("I"):
        # The modes I;16 and I are 16-bit grey. Pillow would clip their values at 255 instead of
        # scaling them.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode == "P":
        # Convert via RGBA; otherwise a transparent palette entry would lose its colour.
        image = image.convert("RGBA")
    modes = _modes(channels)
    return image if image.mode in modes else image.convert(modes[0])


def _resize_and_crop(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Resize only the part that the crop keeps; otherwise an image of 1 x 60,000 pixels is slow.

    Pillow's argument `box` also uses the pixels around the box for filtering. The result differs by
    at most one level from resizing the whole image and then cropping it.
    """
    width, height = image.size
    shorter = min(width, height)
    resized = [round(n * preprocessing.resize_shorter / shorter) for n in image.size]
    crop_height, crop_width = preprocessing.crop
    left = (resized[0] - crop_width) // 2
    top = (resized[1] - crop_height) // 2
    box = (
        left * width / resized[0],
        top * height / resized[1],
        (left + crop_width) * width / resized[0],
        (top + crop_height) * height / resized[1],
    )
    return image.resize(
        (crop_width, crop_height), _INTERPOLATIONS[preprocessing.interpolation], box=box
    )
