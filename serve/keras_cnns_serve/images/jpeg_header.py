"""Read the size and count the scans of a JPEG from its markers, before libjpeg decodes it."""

import math
import re
from dataclasses import dataclass

from keras_cnns_serve.errors import DamagedImageError, ImageTooLargeError

_MAX_SCANS = 100  # maximum number of scans; encoders write at most about 20
# Maximum number of markers before the start of the first scan; the same limit applies to the later
# markers. Pillow reads the markers before the first scan in Python.
_MAX_MARKERS = 1_000
_EXIF, _MAX_EXIF = b"Exif\0\0", 16  # maximum number of EXIF segments; Pillow joins them one by one
_MARKER = re.compile(rb"\xff([^\x00\xff])")
_MARKER_IN_SCAN = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")  # restart markers belong to the data
_FRAMES = frozenset((0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xCA, 0xCB))
_PROGRESSIVE = (0xC2, 0xCA)
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
# Markers that no length follows and that do not end the image; libjpeg rejects most of them.
_BARE = frozenset((*range(0xC0), 0xC8, *range(0xD0, 0xD9), *range(0xF0, 0xFE)))


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """The size of a JPEG and the cost of its scans.

    Attributes:
        width: width in pixels.
        height: height in pixels.
        first_scan: offset of the first scan; the metadata precede it.
        scans: number of scans.
        coefficients: bytes that libjpeg needs for all coefficients; 0 if there is a single scan.
    """

    width: int
    height: int
    first_scan: int
    scans: int
    coefficients: int


def read_jpeg_header(content: bytes) -> JpegHeader:
    """Return the header of a JPEG, finding its markers in the same way as libjpeg and Pillow.

    Raises:
        DamagedImageError: there is no scan, or there are more segments than encoders write.
        ImageTooLargeError: there are more scans than encoders write.
    """
    frame = b""
    progressive = False
    position = 2
    for _ in range(_MAX_MARKERS):
        found = _MARKER.search(content, position)
        if found is None or found[1][0] == _END_OF_IMAGE:
            break
        marker, position = found[1][0], found.end()
        if marker in _BARE:
            continue
        if marker == _START_OF_SCAN:
            return _with_scans(content, position, frame, progressive)
        length = _length(content, position)
        if marker in _FRAMES and not frame:
            frame, progressive = content[position + 2 : position + length], marker in _PROGRESSIVE
        position += length
    else:
        raise DamagedImageError(
            f"the JPEG image has more than {_MAX_MARKERS:,} segments before its pixels"
        )
    raise DamagedImageError("the JPEG image's header is damaged or cut short")


def _length(content: bytes, position: int) -> int:
    """Return the length of a segment, including the two bytes of the length."""
    return max(2, int.from_bytes(content[position : position + 2]))


def _with_scans(content: bytes, scan: int, frame: bytes, progressive: bool) -> JpegHeader:
    if len(frame) < 8 or not frame[5] or scan + 2 >= len(content):
        raise DamagedImageError("the JPEG image's header is damaged or cut short")
    if content.count(_EXIF, 0, scan) > _MAX_EXIF:
        raise DamagedImageError(f"the JPEG image has more than {_MAX_EXIF} segments of EXIF data")
    height, width = int.from_bytes(frame[1:3]), int.from_bytes(frame[3:5])
    components = frame[5]
    scans, coefficients = 1, 0
    if progressive or content[scan + 2] < components:
        scans = _count_scans(content, scan)
        coefficients = _coefficients(width, height, frame[7::3][:components])
    return JpegHeader(width, height, scan, scans, coefficients)


def _count_scans(content: bytes, position: int) -> int:
    scans = 1
    for _ in range(_MAX_MARKERS):
        found = _MARKER_IN_SCAN.search(content, position)
        if found is None or found[1][0] == _END_OF_IMAGE:
            return scans
        marker, position = found[1][0], found.end()
        if marker == _START_OF_SCAN:
            scans += 1
            if scans > _MAX_SCANS:
                raise ImageTooLargeError(
                    f"the JPEG image has more than {_MAX_SCANS} scans; encoders write at most "
                    "about 20"
                )
        if marker not in _BARE:
            position += _length(content, position)
    raise DamagedImageError(
        f"the JPEG image has more than {_MAX_MARKERS:,} segments between its scans"
    )


def _coefficients(width: int, height: int, samplings: bytes) -> int:
    """Return the bytes of all coefficients; a block has 64 coefficients of 2 bytes each."""
    across, down = max(s >> 4 for s in samplings) or 1, max(s & 15 for s in samplings) or 1
    units = math.ceil(width / (8 * across)) * math.ceil(height / (8 * down))
    return units * sum((s >> 4) * (s & 15) for s in samplings) * 64 * 2
