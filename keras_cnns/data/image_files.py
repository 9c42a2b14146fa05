"""A folder of images, each file opened, decoded and hashed once, or listed unopened."""

import hashlib
import itertools
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf
from rich.console import Console
from rich.progress import track

from keras_cnns.cores import available_cores
from keras_cnns.data.decoding import decode_as_pillow, set_upright
from keras_cnns.data.images import read_header, read_pixels
from keras_cnns.data.layout import Layout, read_layout
from keras_cnns.data.samples import content_fraction

EXTENSIONS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
}
# Formats that cameras and scanners write, and that have to be converted first.
CONVERTIBLE = {
    "HEIC": (".heic", ".heif"),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif",),
}
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys(
        (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC"
    ),
}
_TIFF = (b"II*\0", b"MM\0*")
PROGRESS_FROM = 2_000  # files: some seconds
Keep = Callable[[Path, tf.Tensor], None]  # takes an image's upright pixels, uint8 [h, w, 3]


@dataclass(frozen=True)
class ImageFile:
    """A file in a class's folder."""

    path: Path
    label: str
    split: str | None  # its split folder's split, if the folder has split folders
    digest: str  # SHA-256 of its bytes; empty if they were not read
    format: str = ""  # by its content: a key of EXTENSIONS, or of CONVERTIBLE with a problem
    size: tuple[int, int] = (0, 0)  # pixels, height and width, upright
    orientation: int = 1  # as EXIF counts
    needs_pillow: bool = False  # TensorFlow's operations refuse it, or read other pixels
    problem: str = ""  # why it cannot be read; empty if it can

    @property
    def fraction(self) -> float:
        """A number in [0, 1) that depends on the content alone."""
        return content_fraction(self.digest)


@dataclass(frozen=True)
class Scan:
    """The files of a folder of images, in the order of their paths."""

    root: Path
    files: tuple[ImageFile, ...]  # images in class folders, readable or not
    others: tuple[Path, ...]  # hidden files, notes and the like, which are ignored
    outside: tuple[Path, ...]  # images beside the class folders, which belong to no class


def scan_folder(root: str | Path) -> Scan:
    """Read every file of a folder of images.

    Args:
        root: see `read_layout`.

    Raises:
        ValueError: there is no such folder, or no class in it, or its layout is unclear.
    """
    layout = read_layout(root)
    images = read_images(root, layout.images)
    outside = images_outside(layout)
    if not images:
        raise no_images(root, layout)
    everything = {path for path, _, _ in layout.images} | set(layout.outside)
    known = {file.path for file in images} | set(outside)
    return Scan(Path(root), images, tuple(sorted(everything - known)), outside)


def read_images(
    root: str | Path,
    found: Sequence[tuple[Path, str, str]],
    keep: Keep | None = None,
    *,
    decode: bool = True,
) -> tuple[ImageFile, ...]:
    """Read files, and return those that are images, readable or not.

    Args:
        root: the folder that they are in.
        found: each file's path, class and split folder's split, as in a `Layout`.
        keep: takes the pixels of each readable image, from several threads.
        decode: see `inspect_file`.
    """
    found = [each for each in found if not _is_other(each[0])]
    with ThreadPoolExecutor(available_cores()) as pool:
        # Images are decoded outside of Python's lock.
        files: Iterable[ImageFile | None] = pool.map(
            lambda each: inspect_file(*each, keep=keep, decode=decode), found
        )
        if len(found) >= PROGRESS_FROM:
            files = track(files, f"reading {root}", len(found), console=Console(file=sys.stderr))
        return tuple(file for file in files if file)


def list_images(layout: Layout) -> tuple[ImageFile, ...]:
    """Return the files that are named as images, unopened, without digest, format and size.

    In a class folder without such a name, files are opened until one is an image, and that one is
    returned. So the classes and splits are those of the images that `read_images` returns.
    """
    folders: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for path, label, split in layout.images:
        if not _is_other(path):
            folders[label, split].append(path)
    files: list[ImageFile] = []
    for (label, split), paths in folders.items():
        images = list(filter(_has_image_name, paths)) or list(
            itertools.islice((path for path in paths if _is_image(path)), 1)
        )
        files += (ImageFile(path, label, split or None, "") for path in images)
    return tuple(files)


def find_images(found: Iterable[tuple[Path, str, str]]) -> tuple[ImageFile, ...]:
    """Return the files that `read_images` returns, without digest, format and size.

    Only files that are not named as images are opened, to see whether they are.
    """
    return tuple(
        ImageFile(path, label, split or None, "")
        for path, label, split in found
        if not _is_other(path) and (_has_image_name(path) or _is_image(path))
    )


def images_outside(layout: Layout) -> tuple[Path, ...]:
    """Return the files beside the class folders that are named as images."""
    return tuple(path for path in layout.outside if _has_image_name(path))


def no_images(root: str | Path, layout: Layout) -> ValueError:
    """Return the error for a folder without a class."""
    outside = len(images_outside(layout))
    beside = f" ({outside} images lie outside of class folders)" if outside else ""
    return ValueError(
        f"{root} has no folder with images in it; it needs one for each class{beside}"
    )


def _is_other(path: Path) -> bool:
    """Return whether a file is hidden, as those that macOS leaves beside images."""
    return path.name.startswith(".")


def _has_image_name(path: Path) -> bool:
    suffixes = {**EXTENSIONS, **CONVERTIBLE}.values()
    return not _is_other(path) and path.suffix.lower() in {
        each for kind in suffixes for each in kind
    }


def _is_image(path: Path) -> bool:
    return inspect_file(path, "", "", decode=False) is not None


def inspect_file(
    path: Path, label: str, split: str, *, keep: Keep | None = None, decode: bool = True
) -> ImageFile | None:
    """Read and decode a file; None if neither its name nor its content is an image's.

    Args:
        path: the file.
        label: its class.
        split: its split folder's split, or "".
        keep: takes the pixels of a readable image.
        decode: if False, find only what is wrong with the header, and keep no pixels.
    """
    content, digest, kind = b"", "", ""
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for a writer
            raise ValueError("not a regular file")
        content = path.read_bytes()
        digest, kind = hashlib.sha256(content).hexdigest(), _convertible(content)
        if kind:
            raise ValueError(f"{kind}, which has to be converted")
        header = read_header(content)
        kind = header.format
        if not decode:
            return ImageFile(
                path, label, split or None, digest, kind, header.size, header.orientation
            )
        pixels = decode_as_pillow(content, header)
        needs_pillow = pixels is None
        if needs_pillow:
            pixels = read_pixels(content)
    except (OSError, ValueError) as error:
        if not kind and not _has_image_name(path):
            return None
        if content[:4] + content[8:12] == b"RIFFWEBP":
            kind = "WEBP"  # which Pillow does not name if its header is cut short
        problem = f"damaged or cut short, though it begins as {kind}" if kind in EXTENSIONS else ""
        return ImageFile(path, label, split or None, digest, kind, problem=problem or str(error))
    if keep:
        keep(path, pixels if needs_pillow else set_upright(pixels, header.orientation))
    return ImageFile(
        path, label, split or None, digest, kind, header.size, header.orientation, needs_pillow
    )


def _convertible(content: bytes) -> str:
    """Return the format of an image that has to be converted first; "" if it is none."""
    if content[4:8] == b"ftyp":
        return _BRANDS.get(content[8:12], "")
    return "TIFF" if content.startswith(_TIFF) else ""
