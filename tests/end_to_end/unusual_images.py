"""Images that are rare and allowed, and damaged ones: what each reader must read alike or refuse.

Each is `SIDE` pixels high and wide, so that no reader has to resize it. Pillow writes most of them;
what Pillow cannot write is made from bytes here.
"""

import io
import struct
import zlib
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

SIDE = 33  # an odd number, and not a multiple of the size of a JPEG's blocks
_PNG = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # PNG's colour types
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_ADAM7 = (  # x and y of each pass' first pixel, and its steps
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
_GAMMA = ("gAMA", struct.pack(">I", 100_000))
_XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def picture(mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Return smooth colours with some noise."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    noisy = smooth + generator.normal(0, 8, smooth.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).convert(mode)


def see_through(mode: str = "RGBA", seed: int = 0) -> Image.Image:
    """Return a picture whose upper half is transparent, and the rest translucent in steps."""
    image = picture(mode, seed)
    alpha = np.tile(np.arange(SIDE, dtype=np.uint8) * 7, (SIDE, 1))
    alpha[: SIDE // 2] = 0
    image.putalpha(Image.fromarray(alpha))
    return image


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return an image as the bytes of a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def orientation(number: int) -> bytes:
    """Return EXIF data with this orientation."""
    tags = Image.Exif()
    tags[0x0112] = number
    return tags.tobytes()


def unusual_images() -> dict[str, bytes]:
    """Return the images by name; the name's first word is the format."""
    return {**_pngs(), **_jpegs(), **_webps(), **_bmps(), **_gifs(), **_others()}


def _pngs() -> dict[str, bytes]:
    every = {
        f"PNG colour type {kind}, {depth} bits{', interlaced' * interlaced}": _png(
            kind, depth, interlaced=interlaced
        )
        for kind, depths in _DEPTHS.items()
        for depth in depths
        for interlaced in (False, True)
    }
    plain = _png(2, 8)
    body = plain.index(b"IDAT") - 4
    return {
        **every,
        "PNG grey with a transparent level": _png(0, 8, ("tRNS", b"\0\x80")),
        "PNG grey, 16 bits, with a transparent level": _png(0, 16, ("tRNS", b"\x12\x34")),
        "PNG RGB with a transparent colour": _png(2, 8, ("tRNS", b"\0\1\0\2\0\3")),
        "PNG palette, partly transparent": _png(3, 4, ("tRNS", bytes(range(0, 256, 17)))),
        "PNG palette with one transparent colour": _png(3, 4, ("tRNS", b"\xff\xff\0")),
        "PNG with gamma 1": _png(2, 8, _GAMMA),
        "PNG grey, 4 bits, with gamma 1": _png(0, 4, _GAMMA),
        "PNG with chromaticities": _png(2, 8, _GAMMA, ("cHRM", struct.pack(">8I", *[30_000] * 8))),
        "PNG with significant bits": _png(2, 8, ("sBIT", b"\5\6\5")),
        "PNG with a background": _png(6, 8, ("bKGD", bytes(6))),
        "PNG with a profile": saved(picture(), "PNG", icc_profile=b"not much of a profile"),
        "PNG turned by EXIF": saved(picture(), "PNG", exif=orientation(6)),
        "PNG turned by XMP": _png(2, 8, ("iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + _XMP)),
        "PNG in several IDAT": saved(picture().resize((SIDE, SIDE)), "PNG", compress_level=0),
        "PNG animated": saved(picture(), "PNG", save_all=True, append_images=[picture(seed=1)]),
        "PNG without IEND": plain[:-12],
        "PNG with half an IEND": plain[:-6],
        "PNG with bytes after its end": plain + b"behind the image",
        "PNG with a wrong checksum of pixels": plain[:-16] + bytes(4) + plain[-12:],
        "PNG with a wrong checksum of text": plain[:body]
        + struct.pack(">I4s4sI", 4, b"tEXt", b"a\0b ", 7)
        + plain[body:],
        "PNG cut short": plain[: len(plain) // 2],
    }


def _png(kind: int, depth: int, *chunks: tuple[str, bytes], interlaced: bool = False) -> bytes:
    """Return a PNG of random levels."""
    channels = _CHANNELS[kind]
    generator = np.random.default_rng(kind * 100 + depth)
    levels = generator.integers(0, 2**depth, (SIDE, SIDE, channels))
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    rows = [
        b"\0" + _pack(row.ravel(), depth)
        for left, top, *steps in passes
        for row in levels[top :: steps[1], left :: steps[0]]
    ]
    header = struct.pack(">IIBBBBB", SIDE, SIDE, depth, kind, 0, 0, interlaced)
    palette = generator.integers(0, 256, 3 * 2**depth, dtype=np.uint8).tobytes()
    before = [("gAMA", data) for name, data in chunks if name == "gAMA"]
    after = [chunk for chunk in chunks if chunk[0] != "gAMA"]
    whole = [
        ("IHDR", header),
        *before,
        *([("PLTE", palette)] if kind == 3 else []),
        *after,
        ("IDAT", zlib.compress(b"".join(rows))),
        ("IEND", b""),
    ]
    return _PNG + b"".join(_chunk(name.encode(), data) for name, data in whole)


def _pack(levels: np.ndarray, depth: int) -> bytes:
    if depth == 16:
        return levels.astype(">u2").tobytes()
    bits = (levels[:, None] >> np.arange(depth - 1, -1, -1)) & 1
    return np.packbits(bits.astype(np.uint8).ravel()).tobytes()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _jpegs() -> dict[str, bytes]:
    plain, cmyk = saved(picture(), "JPEG"), saved(picture("CMYK"), "JPEG")
    turned = {
        f"JPEG of orientation {n}": saved(picture(), "JPEG", exif=orientation(n))
        for n in range(1, 9)
    }
    sampled = {
        f"JPEG sampled 4:{name[1]}:{name[2]}": simplejpeg.encode_jpeg(
            np.ascontiguousarray(picture()), colorsubsampling=name
        )
        for name in ("444", "422", "420", "440", "411")
    }
    adobe = _segment(cmyk, 0xEE)
    start = plain.index(b"\xff\xdb")
    return {
        **turned,
        **sampled,
        "JPEG grey": saved(picture("L"), "JPEG"),
        "JPEG of quality 1": saved(picture(), "JPEG", quality=1),
        "JPEG RGB": saved(picture(), "JPEG", keep_rgb=True),
        "JPEG YCbCr without JFIF": plain.replace(_segment(plain, 0xE0), b""),
        "JPEG CMYK": cmyk,
        "JPEG CMYK without Adobe's marker": cmyk.replace(adobe, b""),
        "JPEG CMYK turned": saved(picture("CMYK"), "JPEG", exif=orientation(6)),
        "JPEG YCCK": cmyk.replace(adobe, adobe[:-1] + b"\2"),
        "JPEG progressive": saved(picture(), "JPEG", progressive=True),
        "JPEG grey, progressive": saved(picture("L"), "JPEG", progressive=True),
        "JPEG with restart markers": saved(picture(), "JPEG", restart_marker_blocks=1),
        "JPEG with a profile": saved(picture(), "JPEG", icc_profile=b"not much of a profile"),
        "JPEG with a comment": saved(picture(), "JPEG", comment=b"tiff: nothing"),
        "JPEG turned by XMP": saved(picture(), "JPEG", xmp=_XMP),
        "JPEG of damaged EXIF": saved(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"),
        "JPEG with fill bytes": plain[:start] + b"\xff\xff" + plain[start:],
        "JPEG of two pictures (MPO)": saved(
            picture(), "MPO", save_all=True, append_images=[picture(seed=1)]
        ),
        "JPEG with bytes after its end": plain + b"behind the image",
        "JPEG without its end": plain[:-2],
        "JPEG with damaged pixels": plain[:-200] + bytes(20) + plain[-180:],
        "JPEG of 12 bits": _with_precision(plain, 12),
        "JPEG cut short": plain[: len(plain) // 2 + 200],
    }


def _segment(content: bytes, marker: int) -> bytes:
    """Return a JPEG's first segment of a kind, marker and length included."""
    start = content.index(bytes([0xFF, marker]))
    return content[start : start + 2 + int.from_bytes(content[start + 2 : start + 4])]


def _with_precision(content: bytes, bits: int) -> bytes:
    frame = _segment(content, 0xC0)
    return content.replace(frame, frame[:4] + bytes([bits]) + frame[5:])


def _webps() -> dict[str, bytes]:
    lossy = saved(picture(), "WEBP")
    frames = {"save_all": True, "append_images": [picture(seed=1)]}
    return {
        "WEBP lossy": lossy,
        "WEBP lossless": saved(picture(), "WEBP", lossless=True),
        "WEBP lossy with alpha": saved(see_through(), "WEBP", exact=True),
        "WEBP lossless with alpha": saved(see_through(), "WEBP", lossless=True, exact=True),
        "WEBP animated": saved(picture(), "WEBP", **frames),
        "WEBP animated with alpha": saved(
            see_through(), "WEBP", save_all=True, append_images=[see_through(seed=1)]
        ),
        "WEBP with a profile": saved(picture(), "WEBP", icc_profile=b"not much of a profile"),
        "WEBP turned by EXIF": saved(picture(), "WEBP", exif=orientation(6)),
        "WEBP turned by XMP": saved(picture(), "WEBP", xmp=_XMP),
        "WEBP with bytes after its end": lossy + b"behind the image",
        "WEBP cut short": lossy[: len(lossy) // 2],
    }


def _bmps() -> dict[str, bytes]:
    rgb = np.asarray(picture())
    palette = picture().quantize(16)
    colors = _quads(palette)
    indices = np.asarray(palette)
    low = np.pad(indices, ((0, 0), (0, 1)))
    nibbles = (low[:, ::2] << 4 | low[:, 1::2]).astype(np.uint8)
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    deep = rgb.astype(np.uint16)
    b565 = (deep[..., 0] >> 3) << 11 | (deep[..., 1] >> 2) << 5 | deep[..., 2] >> 3
    b555 = (deep[..., 0] >> 3) << 10 | (deep[..., 1] >> 3) << 5 | deep[..., 2] >> 3
    rle8 = b"".join(_runs(row) for row in indices[::-1]) + b"\0\1"
    rle4 = b"".join(_runs(row, 17) for row in indices[::-1]) + b"\0\1"
    bgra = np.dstack([rgb[..., ::-1], np.full((SIDE, SIDE), 9, np.uint8)])
    return {
        "BMP 1 bit": saved(picture("1"), "BMP"),
        "BMP 4 bits": _bmp(4, _rows(nibbles[::-1]), colors),
        "BMP 8 bits": saved(picture().quantize(200), "BMP"),
        "BMP grey": saved(picture("L"), "BMP"),
        "BMP 16 bits": _bmp(16, _rows(b555[::-1])),
        "BMP 16 bits of 5, 6 and 5": _bmp(16, _rows(b565[::-1]), masks, compression=3),
        "BMP 24 bits": saved(picture(), "BMP"),
        "BMP 32 bits": _bmp(32, bgra[::-1].tobytes()),
        "BMP 32 bits with alpha": saved(see_through(), "BMP"),
        "BMP top-down": _bmp(24, _rows(rgb[..., ::-1]), height=-SIDE),
        "BMP 8 bits in runs": _bmp(8, rle8, colors, compression=1),
        "BMP 4 bits in runs": _bmp(4, rle4, colors, compression=2),
        "BMP of OS/2": _os2(_rows(rgb[::-1, :, ::-1])),
        "BMP cut short": saved(picture(), "BMP")[:-400],
    }


def _rows(values: np.ndarray) -> bytes:
    """Return a BMP's rows, each padded to a multiple of four bytes."""
    rows = [np.ascontiguousarray(row).tobytes() for row in values.astype(values.dtype)]
    return b"".join(row + bytes(-len(row) % 4) for row in rows)


def _quads(palette: Image.Image) -> bytes:
    """Return a palette's 16 colours in BMP's order: blue, green, red and a zero."""
    colors = np.array(palette.getpalette(), np.uint8).reshape(-1, 3)[:16]
    colors = np.pad(colors, ((0, 16 - len(colors)), (0, 0)))
    return np.pad(colors[:, ::-1], ((0, 0), (0, 1))).astype(np.uint8).tobytes()


def _runs(row: np.ndarray, times: int = 1) -> bytes:
    """Return a row in run-length encoding, with runs of one pixel, and the end of the row."""
    return b"".join(bytes([1, index * times]) for index in row.tolist()) + b"\0\0"


def _bmp(
    bits: int, pixels: bytes, table: bytes = b"", *, compression: int = 0, height: int = SIDE
) -> bytes:
    colors = 0 if compression == 3 else len(table) // 4
    sizes = struct.pack("<IiiHHIIiiII", 40, SIDE, height, 1, bits, compression, len(pixels), 0, 0,
                        colors, colors)  # fmt: skip
    start = 14 + len(sizes) + len(table)
    header = struct.pack("<2sIHHI", b"BM", start + len(pixels), 0, 0, start)
    return header + sizes + table + pixels


def _os2(pixels: bytes) -> bytes:
    header = struct.pack("<2sIHHI", b"BM", 26 + len(pixels), 0, 0, 26)
    return header + struct.pack("<IHHHH", 12, SIDE, SIDE, 1, 24) + pixels


def _gifs() -> dict[str, bytes]:
    palette = picture().quantize(64)
    other = picture(seed=1).quantize(32)
    plain = saved(palette, "GIF", interlace=0)
    return {
        "GIF": plain,
        "GIF interlaced": saved(palette, "GIF", interlace=1),
        "GIF grey": saved(picture("L"), "GIF"),
        "GIF with a transparent colour": saved(palette, "GIF", transparency=5),
        "GIF animated": saved(palette, "GIF", save_all=True, append_images=[other]),
        "GIF animated and transparent": saved(
            see_through(), "GIF", save_all=True, append_images=[see_through(seed=1)], disposal=2
        ),
        "GIF with its frame's own palette": _with_local_palette(plain),
        "GIF with a frame smaller than itself": _with_small_frame(),
        "GIF without its end": plain[:-1],
        "GIF with bytes after its end": plain + b"behind the image",
        "GIF cut short": plain[: len(plain) // 2],
    }


def _with_local_palette(content: bytes) -> bytes:
    """Move a GIF's global palette behind its frame's descriptor."""
    size = 3 * 2 ** ((content[10] & 7) + 1)
    table, rest = content[13 : 13 + size], content[13 + size :]
    frame = rest.index(b"\x2c")
    descriptor = rest[frame : frame + 9] + bytes([rest[frame + 9] | 0x80 | content[10] & 7])
    header = content[:10] + bytes([content[10] & 0x78]) + content[11:13]
    return header + rest[:frame] + descriptor + table + rest[frame + 10 :]


def _with_small_frame() -> bytes:
    """Return a GIF of `SIDE` pixels whose one frame covers 8 of them, 4 from the upper left."""
    content = saved(picture().quantize(16).resize((8, 8)), "GIF", interlace=0)
    size = 3 * 2 ** ((content[10] & 7) + 1)
    frame = content.index(b"\x2c", 13 + size)
    moved = content[: frame + 1] + struct.pack("<HH", 4, 4) + content[frame + 5 :]
    return moved[:6] + struct.pack("<HH", SIDE, SIDE) + moved[10:]


def _others() -> dict[str, bytes]:
    return {
        "TIFF": saved(picture(), "TIFF"),
        "text": b"not an image",
    }
