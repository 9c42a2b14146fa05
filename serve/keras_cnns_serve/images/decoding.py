"""Decode images and preprocess them with Pillow, as model.json describes it.

Decode, apply the EXIF orientation, convert to grey or RGB, resize the shorter side (antialiased,
the aspect kept), crop the centre. Transparency is dropped, not blended; of 16 bits the upper 8 are
kept; of an animation the first frame is read. Training reads the same pixels.
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

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
FORMAT_NAMES = "JPEG, PNG, WebP, BMP or GIF"
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"BM", b"GIF8")  # of these formats
MAX_PIXELS = 50_000_000  # the largest camera phones' photographs; 200 MB in Pillow
MAX_SIDE = 65_535  # pixels; a JPEG can have no more, and each row is allocated by itself
# Pixels times scans: libjpeg visits the whole image in each. A progressive photograph has about 10;
# the worst image within this limit takes a few seconds.
MAX_WORK = 12 * MAX_PIXELS
# Pillow reads chunks and blocks in Python, one by one: so many take 20 ms. A large file may have
# more.
MAX_READS, BYTES_PER_READ = 20_000, 512
# Pillow decodes a run-length encoded BMP in Python, at worst each pixel by itself.
MAX_RLE_PIXELS, MAX_RLE_READS, RLE_WORK = 2**21, 500_000, 100
MAX_PROFILES = 10  # in a PNG, which can have one; each unfolds to at most 1 MiB
# A thumbnail; a few bytes more could hold a progressive JPEG of hundreds of scans.
SMALL_BYTES, SMALL_PIXELS = 2**12, 2**12
PILLOW_MAX_PIXELS = 178_956_970  # Pillow itself refuses more
INTERPOLATIONS = {"bilinear": Image.Resampling.BILINEAR}  # Pillow's are always antialiased

# What may turn an image is read by Pillow alone: orientation stands in EXIF, or in XMP.
TURNING = (b"Exif\0\0", b"tiff:Orientation")
# Colours in the file -> the mode of Pillow that takes the decoder's array as it is; of colours it
# has a fourth byte.
_PLAIN_JPEG = {"YCbCr": "RGBX", "Gray": "L"}

_USUAL_SCANS = 20  # of a progressive JPEG, at most
_RLE = (1, 2)  # compressions of a BMP
# Bytes of one pixel in Pillow, where there are not 4.
_PIXEL_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}
_WEBP_BYTES = 14  # of a pixel, besides Pillow's: libwebp's two canvases, and the frame as bytes

# Pillow warns of odd metadata, such as EXIF cut short, in photographs that it reads well; those
# are common (ImageNet has some), and a server's log is not where their owner looks.
warnings.filterwarnings("ignore", module=r"PIL\.")
PngImagePlugin.MAX_TEXT_MEMORY = 2**24  # bytes that compressed texts may unfold to; it was 2**26


class EncodedImage:
    """An image whose header was read: what it costs to decode, and its pixels.

    Args:
        content: The encoded image.
        preprocessing: The size and channels to give.
        max_pixels: Refuse a larger image, by its header; at most `PILLOW_MAX_PIXELS`.

    Raises:
        UnsupportedImageError: It is of another format.
        ImageTooLargeError: It has more than `max_pixels` pixels, or takes too long to decode.
        DamagedImageError: Its header cannot be read.
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
        besides = max(read, _conversion_bytes(mode, preprocessing.channels))
        scans, coefficients = (1, 0) if header is None else (header.scans, header.coefficients)
        self.work = pixels * (RLE_WORK if _is_rle(self._image) else scans)
        # Bytes at the peak: the image, and what is made of it or libjpeg makes it of.
        self.memory = pixels * _bytes(mode) + max(pixels * besides, coefficients)
        if self._image is not None and self._image.format == "WEBP":
            self.memory += len(content)  # libwebp has a copy

    def read(self) -> NDArray[np.uint8]:
        """Return the pixels that the graph takes, [H, W, C]; to be called once.

        Raises:
            DamagedImageError: It cannot be decoded to its end.
        """
        if self._plain:
            pixels = _decode_plain(self._content, self._plain, self._preprocessing)
            if pixels is not None:
                return pixels
        # What libjpeg finds damaged is opened anew, so that Pillow says how.
        image = self._image or _open(self._content, PILLOW_MAX_PIXELS)
        self._image = None  # so that a copy can replace it
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
    """Decode an image of `FORMATS` to the pixels that the graph takes, [H, W, C].

    The arguments are those of `EncodedImage`, and so are the errors, besides:

    Raises:
        DamagedImageError: It cannot be decoded to its end.
    """
    return EncodedImage(content, preprocessing, max_pixels).read()


def read_small_image(
    content: bytes, preprocessing: Preprocessing, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8] | None:
    """Return the same pixels, where to decode takes no longer than to wake another thread for it.

    So it is with a thumbnail that is a plain JPEG of the size that the graph takes; return None for
    what is not, or is damaged.
    """
    if len(content) > SMALL_BYTES or not content.startswith(SIGNATURES[0]) or _may_turn(content):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours not in _PLAIN_JPEG or width * height > min(max_pixels, SMALL_PIXELS):
            return None
        if not _fits((width, height), colours, preprocessing):
            return None
        return _decode_fitting(content, colours)
    except ValueError:  # damaged: Pillow says how
        return None


def _check_size(width: int, height: int, scans: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"the image has {width:,} x {height:,} pixels, more than {max_pixels:,}"
        )
    if max(width, height) > MAX_SIDE:
        raise ImageTooLargeError(
            f"the image has {width:,} x {height:,} pixels; a side may have {MAX_SIDE:,}"
        )
    if width * height * scans > MAX_WORK:
        raise ImageTooLargeError(
            f"the JPEG image has {width:,} x {height:,} pixels in {scans} scans; this server "
            f"decodes at most {MAX_WORK // (width * height)} scans of that size: save it with "
            "fewer, or as a baseline JPEG"
        )


def _may_turn(header: bytes) -> bool:
    return TURNING[0] in header or TURNING[1] in header


def _plain_colours(content: bytes, header: JpegHeader) -> str:
    """Return the colours of a JPEG that needs no turning; "" for what Pillow must read or refuse.

    libjpeg-turbo by itself, with the settings and so the pixels of Pillow, takes less time.
    """
    # A damaged one is decoded twice: not one of so many scans.
    if _may_turn(content[: header.first_scan]) or header.scans > _USUAL_SCANS:
        return ""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:  # damaged: Pillow says how
        return ""
    same = (width, height) == (header.width, header.height)
    return str(colours) if same and colours in _PLAIN_JPEG else ""


def _decode_plain(
    content: bytes, colours: str, preprocessing: Preprocessing
) -> NDArray[np.uint8] | None:
    """Decode a plain JPEG; return None if it is damaged."""
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
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
        content, "GRAY" if colours == "Gray" else "RGB"
    )
    return pixels


def _fits(size: tuple[int, int], colours: str, preprocessing: Preprocessing) -> bool:
    """Return whether nothing is to be converted, resized or cropped."""
    return (
        size[::-1] == preprocessing.crop
        and min(size) == preprocessing.resize_shorter
        and (colours == "Gray") == (preprocessing.channels == 1)
    )


def _open(content: bytes, max_pixels: int) -> Image.Image:
    """Read a header with Pillow."""
    if not content:
        raise UnsupportedImageError("there is no image: 0 bytes were given")
    if content.startswith(SIGNATURES[1]) and content.count(b"iCCP") > MAX_PROFILES:
        raise DamagedImageError("the PNG image has several colour profiles; it can have one")
    reader = _Reader(content)
    try:
        image = Image.open(reader, formats=FORMATS)
    except ServeError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLargeError(f"the image has far more than {max_pixels:,} pixels") from error
    except Exception as error:  # a hostile header makes Pillow raise nearly anything
        if content.startswith(SIGNATURES):
            raise DamagedImageError("the image's header is damaged or cut short") from error
        raise UnsupportedImageError(
            f"these {len(content):,} bytes are not an image in {FORMAT_NAMES}"
        ) from error
    if _is_rle(image):
        reader.left = MAX_RLE_READS
        if image.width * image.height > MAX_RLE_PIXELS:
            raise ImageTooLargeError(
                f"the run-length encoded BMP image has {image.width:,} x {image.height:,} pixels, "
                f"more than {MAX_RLE_PIXELS:,}: save it as a PNG"
            )
    return image


def _is_rle(image: Image.Image | None) -> bool:
    """Return whether an image is a run-length encoded BMP."""
    return image is not None and image.format == "BMP" and image.info.get("compression") in _RLE


class _Reader(BytesIO):
    """A file that is read a limited number of times, however many small parts it has.

    Raises:
        ImageTooLargeError: It was read too often.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.left = MAX_READS + len(content) // BYTES_PER_READ  # reads

    def read(self, size: int | None = -1, /) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise ImageTooLargeError(
                "the image has more chunks, blocks or runs than this server reads: save it anew, "
                "as a PNG or JPEG"
            )
        return super().read(size)


def _bytes(mode: str) -> int:
    """Return the bytes of one pixel in Pillow."""
    return _PIXEL_BYTES.get(mode, 4)


def _conversion_bytes(mode: str, channels: int) -> int:
    """Return the bytes of one pixel that `_convert` holds besides the image."""
    if mode in _modes(channels):
        return 0
    if mode.startswith("I"):
        return 2 * _bytes(mode) + 1
    return (1 if channels == 1 else 4) + (4 if mode == "P" else 0)


def _reading_bytes(image: Image.Image) -> int:
    """Return the bytes of one pixel that are held besides while the image is read and turned."""
    if image.format == "WEBP":
        return _WEBP_BYTES
    # The orientation of a PNG may follow its pixels.
    return _bytes(image.mode) if image.format == "PNG" or _is_turned(image) else 0


def _is_turned(image: Image.Image) -> bool:
    try:
        return image.getexif().get(ExifTags.Base.Orientation) in range(2, 9)
    except Exception:  # damaged EXIF data count as none; the pixels are good
        return False


def _upright(image: Image.Image) -> Image.Image:
    if not _is_turned(image):
        return image  # where exif_transpose copies
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def _finish(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Convert, resize and crop an image to what the graph takes."""
    channels = preprocessing.channels
    fitted = _resize_and_crop(_convert(image, channels), preprocessing)
    pixels = np.frombuffer(fitted.tobytes("raw", "L" if channels == 1 else "RGB"), np.uint8)
    return pixels.reshape(*preprocessing.crop, channels)


def _modes(channels: int) -> tuple[str, ...]:
    """Return the modes of Pillow that need no conversion; of RGBX the fourth byte is dropped."""
    return ("L",) if channels == 1 else ("RGB", "RGBX")


def _convert(image: Image.Image, channels: int) -> Image.Image:
    """Convert to 8-bit grey or RGB, without transparency."""
    if image.mode.startswith("I"):
        # Pillow has 16-bit grey in I;16 or I, and would clip at 255 instead of scaling.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode == "P":
        # By way of RGBA, or a transparent palette entry loses its colour.
        image = image.convert("RGBA")
    modes = _modes(channels)
    return image if image.mode in modes else image.convert(modes[0])


def _resize_and_crop(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Resize only what the crop keeps, so that an image of 1 x 50,000,000 pixels costs no more.

    Pillow's `box` filters with the pixels around the box too: the result is within one level of
    resizing the whole and cropping then.
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
        (crop_width, crop_height), INTERPOLATIONS[preprocessing.interpolation], box=box
    )
