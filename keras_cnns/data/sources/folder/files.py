"""Read the image files of a folder: open, decode and hash each file once, or only list it."""

import hashlib
import itertools
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from keras_cnns.cores import available_cores
from keras_cnns.data.decoding import decode_as_pillow, set_upright
from keras_cnns.data.images import read_content, read_header, read_pixels
from keras_cnns.data.sources.cache import read_times
from keras_cnns.data.sources.folder.appearance import measure_appearance
from keras_cnns.data.sources.folder.cache import FolderCache
from keras_cnns.data.sources.folder.image_file import ImageFile
from keras_cnns.data.sources.folder.layout import FoundFile, Layout, read_layout
from keras_cnns.data.sources.folder.near_duplicates import with_near_duplicates

EXTENSIONS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
}
# Formats of cameras and scanners that cannot be read and must be converted first.
CONVERTIBLE = {
    "HEIC": (".heic", ".heif"),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif",),
}
_IMAGE_SUFFIXES = {each for kind in (EXTENSIONS | CONVERTIBLE).values() for each in kind}
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys(
        (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC"
    ),
}
_TIFF = (b"II*\0", b"MM\0*")
_PROGRESS_FROM = 2_000  # the progress is shown if at least this many files are read
Keep = Callable[[Path, tf.Tensor], None]  # receives an image's upright pixels, uint8 [h, w, 3]


@dataclass(frozen=True)
class Scan:
    """The files of a folder of images, in the order of their paths.

    Attributes:
        root: the folder.
        files: the images in class folders, readable or not.
        others: the other files, such as hidden files and notes, which are ignored.
        outside: the images beside the class folders, which belong to no class.
        links: the links to folders inside class folders, which are not followed.
    """

    root: Path
    files: tuple[ImageFile, ...]
    others: tuple[Path, ...] = ()
    outside: tuple[Path, ...] = ()
    links: tuple[Path, ...] = ()


def scan_folder(root: str | Path) -> Scan:
    """Read a folder of images, and open only the files that are not cached.

    As in a training, near-duplicates are determined only among the files that may be split by
    content.

    Args:
        root: see `read_layout`.

    Raises:
        ValueError: there is no such folder, or no class in it, or its layout is unclear.
    """
    layout = read_layout(root)
    images = with_near_duplicates(root, read_images(root, layout.files), (None, "train"))
    outside = _images_outside(layout)
    if not images:
        raise no_images(root, layout)
    everything = {file.path for file in layout.files} | set(layout.outside)
    known = {file.path for file in images} | set(outside)
    others = tuple(sorted(everything - known))
    return Scan(Path(root), images, others, outside, layout.links)


def read_images(
    root: str | Path, found: Iterable[FoundFile], keep: Keep | None = None
) -> tuple[ImageFile, ...]:
    """Read files, and return the images among them, readable or not.

    Files whose results are cached are opened only if `keep` is given, because the cache contains no
    pixels.

    Args:
        root: the folder that contains the files.
        found: the files of a `Layout`.
        keep: called with the pixels of each readable image, from several threads.
    """
    cache = FolderCache(root)
    visible = _visible(found)
    known = {} if keep else {file: cache.find(file) for file in visible}
    unknown = [file for file in visible if known.get(file) is None]

    def read(file: FoundFile) -> ImageFile | None:
        times = read_times(file.path)
        image = inspect_file(file, keep)
        cache.add(file, times, image)
        return image

    with ThreadPoolExecutor(available_cores()) as pool:
        # Decoding releases the lock of the interpreter, so that the threads run in parallel.
        images: Iterable[ImageFile | None] = pool.map(read, unknown)
        if len(unknown) >= _PROGRESS_FROM:
            console = Console(file=sys.stderr)
            title = escape(f"reading {root}")  # [brackets] of a name are not markup
            images = track(images, title, len(unknown), console=console)
        for file, image in zip(unknown, images, strict=True):
            known[file] = (image,)
    cache.save()
    return tuple(image for file in visible for image in known[file] or () if image)


def recall_images(root: str | Path, found: Iterable[FoundFile]) -> tuple[ImageFile, ...] | None:
    """Return the result of `read_images` without opening files; None if a file is not cached."""
    cache = FolderCache(root)
    images: list[ImageFile | None] = []
    for file in _visible(found):
        known = cache.find(file)
        if known is None:
            return None
        images += known
    return tuple(image for image in images if image)


def list_images(layout: Layout) -> tuple[ImageFile, ...]:
    """Return the files whose names have an image's suffix; do not open them.

    Their digest, format and size are therefore unknown.

    If no file of a class folder has such a suffix, the files of this folder are opened until one of
    them is an image, and this file is returned. The classes and splits are therefore the same as in
    the result of `read_images`.
    """
    folders: dict[tuple[str, str | None], list[FoundFile]] = defaultdict(list)
    for file in _visible(layout.files):
        folders[file.label, file.split].append(file)
    images: list[FoundFile] = []
    for files in folders.values():
        named = [file for file in files if _has_image_name(file.path)]
        images += named or itertools.islice(filter(_is_image, files), 1)
    return tuple(ImageFile(*file) for file in images)


def find_images(found: Iterable[FoundFile]) -> tuple[ImageFile, ...]:
    """Return the same files as `read_images`, but without digest, format and size.

    Only files without an image's suffix are opened, to find out whether they are images.
    """
    return tuple(
        ImageFile(*file)
        for file in _visible(found)
        if _has_image_name(file.path) or _is_image(file)
    )


def no_images(root: str | Path, layout: Layout) -> ValueError:
    """Return the error for a folder without a class."""
    outside = len(_images_outside(layout))
    beside = f" ({outside} images lie outside of class folders)" if outside else ""
    return ValueError(
        f"{root} has no folder with images in it; it needs one for each class{beside}"
    )


def inspect_file(
    file: FoundFile, keep: Keep | None = None, *, decode: bool = True
) -> ImageFile | None:
    """Read and decode a file; return None if neither its suffix nor its content is an image's.

    Args:
        file: the file, its class and its split.
        keep: called with the pixels of a readable image.
        decode: if False, check only the image's header: do not measure the image's appearance, and
            do not call `keep`.
    """
    path, content, digest, kind = file.path, b"", "", ""
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for a writer
            raise ValueError("not a regular file")
        content = read_content(path)
        digest, kind = hashlib.sha256(content).hexdigest(), _convertible_format(content)
        if kind:
            raise ValueError(f"its format is {kind}, which must be converted first")
        header = read_header(content)
        kind = header.format
        pixels, needs_pillow = None, False
        if decode:
            pixels = decode_as_pillow(content, header)
            needs_pillow = pixels is None
            if needs_pillow:
                pixels = read_pixels(content)
    except (OSError, ValueError) as error:
        if not kind and not _has_image_name(path):
            return None
        if content[:4] + content[8:12] == b"RIFFWEBP":
            kind = "WEBP"  # Pillow cannot name the format if the header is cut short
        problem = ""
        if kind in EXTENSIONS:
            problem = f"damaged or cut short, though it begins like a {kind} file"
        return ImageFile(*file, digest, kind, problem=problem or str(error))
    image = ImageFile(*file, digest, kind, header.size, header.orientation, needs_pillow)
    if pixels is None:
        return image
    if keep:
        keep(path, pixels if needs_pillow else set_upright(pixels, header.orientation))
    orientation = 1 if needs_pillow else header.orientation  # Pillow returns upright pixels
    return replace(image, appearance=measure_appearance(np.asarray(pixels), orientation))


def _images_outside(layout: Layout) -> tuple[Path, ...]:
    """Return the files beside the class folders that have an image's suffix."""
    return tuple(path for path in layout.outside if _has_image_name(path))


def _visible(found: Iterable[FoundFile]) -> list[FoundFile]:
    """Return the files that are not hidden; macOS creates hidden files beside images."""
    return [file for file in found if not file.path.name.startswith(".")]


def _has_image_name(path: Path) -> bool:
    return not path.name.startswith(".") and path.suffix.lower() in _IMAGE_SUFFIXES


def _is_image(file: FoundFile) -> bool:
    return inspect_file(file, decode=False) is not None


def _convertible_format(content: bytes) -> str:
    """Return the format of an image that must be converted first; "" for other images."""
    if content[4:8] == b"ftyp":
        return _BRANDS.get(content[8:12], "")
    return "TIFF" if content.startswith(_TIFF) else ""
