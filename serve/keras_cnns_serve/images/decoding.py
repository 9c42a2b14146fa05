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
from PIL import Image, ImageOps

from keras_cnns_serve.errors import DamagedImageError, ImageTooLargeError, UnsupportedImageError
from keras_cnns_serve.repository.manifest import Preprocessing

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
FORMAT_NAMES = "JPEG, PNG, WebP, BMP or GIF"
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"BM", b"GIF8")  # of these formats
MAX_PIXELS = 50_000_000  # the largest camera phones' photographs; 150 MB as RGB
# A thumbnail; a few bytes more could hold a progressive JPEG of hundreds of scans.
SMALL_BYTES, SMALL_PIXELS = 2**12, 2**12
PILLOW_MAX_PIXELS = 178_956_970  # Pillow itself refuses more
INTERPOLATIONS = {"bilinear": Image.Resampling.BILINEAR}  # Pillow's are always antialiased

# What may turn an image is read by Pillow alone: orientation stands in EXIF, or in XMP.
TURNING = (b"Exif\0\0", b"tiff:Orientation")
PLAIN_JPEG = {"YCbCr": "RGB", "Gray": "GRAY"}  # colours in the file -> decoded to

# Pillow warns of odd metadata, such as EXIF cut short, in photographs that it reads well; those
# are common (ImageNet has some), and a server's log is not where their owner looks.
warnings.filterwarnings("ignore", module=r"PIL\.")


def read_image(
    content: bytes, preprocessing: Preprocessing, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Decodes an image of `FORMATS` to the pixels that the graph takes, [H, W, C].

    Args:
        content: the encoded image.
        preprocessing: the size and channels to give.
        max_pixels: refuse a larger image, by its header, before decoding; at most
            `PILLOW_MAX_PIXELS`.

    Raises:
        UnsupportedImageError: it is of another format.
        ImageTooLargeError: it has more than `max_pixels` pixels.
        DamagedImageError: it cannot be decoded to its end.
    """
    if not content:
        raise UnsupportedImageError("there is no image: 0 bytes were given")
    plain = _plain_jpeg(content, max_pixels)
    if plain is not None:
        return _finish(plain, preprocessing)
    try:
        image = Image.open(BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLargeError(f"the image has far more than {max_pixels:,} pixels") from error
    except Exception as error:  # a hostile header makes Pillow raise nearly anything
        if content.startswith(SIGNATURES):
            raise DamagedImageError("the image's header is damaged or cut short") from error
        raise UnsupportedImageError(
            f"these {len(content):,} bytes are not an image in {FORMAT_NAMES}"
        ) from error
    with image:
        width, height = image.size
        if width * height > max_pixels:
            raise ImageTooLargeError(
                f"the image has {width:,} x {height:,} pixels, more than {max_pixels:,}"
            )
        try:
            image.load()
            pixels = _convert(_upright(image), preprocessing.channels)
            pixels = _resize_and_crop(pixels, preprocessing)
        except Exception as error:
            raise DamagedImageError(
                f"the {image.format} image is damaged or cut short: {error}"
            ) from error
    return np.asarray(pixels).reshape(*preprocessing.crop, preprocessing.channels)


def read_small_image(
    content: bytes, preprocessing: Preprocessing, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8] | None:
    """The same pixels, where to decode takes no longer than to wake another thread for it.

    So it is with a thumbnail that is a plain JPEG of the size that the graph takes; None for what
    is not, or is damaged.
    """
    if len(content) > SMALL_BYTES:
        return None
    pixels = _plain_jpeg(content, min(max_pixels, SMALL_PIXELS))
    return pixels if pixels is not None and _fits(pixels, preprocessing) else None


def _plain_jpeg(content: bytes, max_pixels: int) -> NDArray[np.uint8] | None:
    """A JPEG that needs no turning, [H, W, 1 or 3]; None for what Pillow must read or refuse.

    libjpeg-turbo by itself, with the settings and so the pixels of Pillow, in a third of the time
    for small images.
    """
    if not content.startswith(SIGNATURES[0]) or TURNING[0] in content or TURNING[1] in content:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours not in PLAIN_JPEG or width * height > max_pixels:
            return None
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(content, PLAIN_JPEG[colours])
    except ValueError:  # damaged: Pillow says how
        return None
    return pixels


def _finish(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    if _fits(pixels, preprocessing):
        return pixels
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image = _resize_and_crop(_convert(image, preprocessing.channels), preprocessing)
    return np.asarray(image).reshape(*preprocessing.crop, preprocessing.channels)


def _fits(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> bool:
    """Whether nothing is to be converted, resized or cropped."""
    return (
        pixels.shape == (*preprocessing.crop, preprocessing.channels)
        and min(preprocessing.crop) == preprocessing.resize_shorter
    )


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data count as none; the pixels are good
        return image


def _convert(image: Image.Image, channels: int) -> Image.Image:
    """To 8-bit grey or RGB, without transparency."""
    if image.mode.startswith("I"):
        # Pillow has 16-bit grey in I;16 or I, and would clip at 255 instead of scaling.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode == "P":
        # By way of RGBA, or a transparent palette entry loses its colour.
        image = image.convert("RGBA")
    return image.convert("L" if channels == 1 else "RGB")


def _resize_and_crop(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Resizes only what the crop keeps, so that an image of 1 x 50,000,000 pixels costs no more.

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
