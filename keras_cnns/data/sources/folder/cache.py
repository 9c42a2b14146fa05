"""Cache the results of reading a folder's files, so that later commands need not read them.

An entry is valid while the size, the modification time and the change time of its file stay the
same. A file that was changed just before it was read gets no entry; see `cache.is_settled`.

The entries of each folder are in one archive of the cache directory; the near-duplicates among each
set of images are in another archive. An archive of another version is ignored.
"""

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import tensorflow as tf
from PIL import Image

from keras_cnns.data.sources.cache import (
    Times,
    cache_directory,
    hash_name,
    is_settled,
    read_archive,
    read_times,
    write_archive,
)
from keras_cnns.data.sources.folder.appearance import SIDE, Appearance
from keras_cnns.data.sources.folder.image_file import ImageFile
from keras_cnns.data.sources.folder.layout import FoundFile

_VERSION = 1  # changes with the format of the archives and with the measurements
_ROW = np.dtype(
    [
        *((name, "<i8") for name in ("bytes", "modified", "changed")),  # times in nanoseconds
        ("is_image", "?"),
        ("digest", "V32"),
        *((name, "<i4") for name in ("format", "problem")),  # indices in the list of texts
        *((name, "<i4") for name in ("height", "width")),
        *(("orientation", "u1"), ("needs_pillow", "?"), ("is_decoded", "?")),
        ("thumbnail", f"V{SIDE * SIDE}"),
        *((name, "<f8") for name in ("deviation", "sharpness", "brightness")),
    ]
)


class FolderCache:
    """The cache entries of a folder; threads may call `add` concurrently, but not `save`."""

    def __init__(self, root: str | Path, *, entries: bool = True) -> None:
        """Open the cache of a folder; if `entries` is true, load its entries."""
        prefix = str(Path(root))
        # The paths of the files in `.` have no prefix.
        self._prefix = "" if prefix == "." else prefix.removesuffix(os.sep) + os.sep
        real = Path(root).resolve()
        directory = cache_directory()
        if directory and directory.resolve().is_relative_to(real):
            directory = None  # never write into a folder of photos
        self._directory = directory
        self._path = directory and directory / "scans" / f"{hash_name(os.fsencode(real))}.npz"
        self._rows: dict[str, tuple[Any, ...]] = {}
        self._texts: list[str] = []
        self._added: dict[str, tuple[Times, ImageFile | None]] = {}
        if self._path and entries:
            with contextlib.suppress(Exception):
                self._load(self._path)

    def find(self, file: FoundFile) -> tuple[ImageFile | None] | None:
        """Return the result of reading a file; None if it is not cached or the file has changed.

        The result is a tuple of one element, which is None if the file is not an image.
        """
        row = self._rows.get(self._name(file))
        if row is None or row[:3] != read_times(file.path):
            return None
        return (self._image(file, row),)

    def add(self, file: FoundFile, times: Times | None, image: ImageFile | None) -> None:
        """Add the result of reading a file.

        Args:
            file: the file.
            times: the size and times of the file before it was read.
            image: the result; None if the file is not an image.
        """
        # A file that could not be read may be readable later.
        is_known = image is None or bool(image.digest)
        if times and is_known and is_settled(times):
            self._added[self._name(file)] = times, image

    def save(self) -> None:
        """Write all entries if there are new ones; drop the entries of removed files."""
        if not self._directory or not self._path or not self._added:
            return
        texts = dict.fromkeys(["", *self._texts])
        for _, image in self._added.values():
            if image:
                texts |= dict.fromkeys((image.format, image.problem))
        indices = {text: index for index, text in enumerate(texts)}
        rows = {
            name: row
            for name, row in self._rows.items()
            if name not in self._added and os.path.lexists(self._prefix + name)
        }
        for name, (times, image) in self._added.items():
            rows[name] = _row(times, image, indices)
        write_archive(
            self._directory,
            self._path,
            header=_encode({"version": _version(), "texts": list(texts)}),
            names=np.frombuffer(b"\0".join(map(os.fsencode, rows)), np.uint8),
            rows=np.array(list(rows.values()), _ROW),
        )

    def group(self, digests: Sequence[str], compute: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the groups of near-duplicates in a set of images, from the cache if possible.

        Args:
            digests: the images' SHA-256, sorted.
            compute: returns the smallest index in the group of each image, int64 [N].
        """
        if not self._directory:
            return compute()
        key = hash_name(json.dumps([_version(), *digests]).encode())
        path = self._directory / "groups" / f"{key}.npz"
        with contextlib.suppress(Exception):
            groups = np.asarray(read_archive(path)["groups"], np.int64)
            known = np.arange(len(digests))
            if groups.shape == known.shape and (groups >= 0).all() and (groups <= known).all():
                os.utime(path)
                return groups
        groups = compute()
        write_archive(self._directory, path, groups=groups)
        return groups

    def _name(self, file: FoundFile) -> str:
        return str(file.path).removeprefix(self._prefix)

    def _load(self, path: Path) -> None:
        arrays = read_archive(path)
        header = json.loads(arrays["header"].tobytes())
        names = os.fsdecode(arrays["names"].tobytes()).split("\0")
        rows, texts = arrays["rows"], header["texts"]
        if header["version"] != _version() or rows.dtype != _ROW or len(rows) != len(names):
            return
        if not all(isinstance(text, str) for text in texts):
            return
        for column in ("format", "problem"):
            if len(rows) and not 0 <= rows[column].min() <= rows[column].max() < len(texts):
                return
        self._texts, self._rows = texts, dict(zip(names, rows.tolist(), strict=True))
        os.utime(path)  # records the time of the last use

    def _image(self, file: FoundFile, row: tuple[Any, ...]) -> ImageFile | None:
        values = dict(zip(_ROW.names or (), row, strict=True))
        if not values["is_image"]:
            return None
        appearance = None
        if values["is_decoded"]:
            appearance = Appearance(
                values["thumbnail"], values["deviation"], values["sharpness"], values["brightness"]
            )
        return ImageFile(
            *file,
            digest=values["digest"].hex(),
            format=self._texts[values["format"]],
            size=(values["height"], values["width"]),
            orientation=values["orientation"],
            needs_pillow=values["needs_pillow"],
            problem=self._texts[values["problem"]],
            appearance=appearance,
        )


def _row(times: Times, image: ImageFile | None, indices: dict[str, int]) -> tuple[Any, ...]:
    """Return a row of the archive, in the order of `_ROW`."""
    known = image or ImageFile(Path(), "", None)
    looks = known.appearance or Appearance(bytes(SIDE * SIDE), 0, 0, 0)
    return (
        *times,
        image is not None,
        bytes.fromhex(known.digest) or bytes(32),
        indices.get(known.format, 0),
        indices.get(known.problem, 0),
        *known.size,
        known.orientation,
        known.needs_pillow,
        known.appearance is not None,
        *(looks.thumbnail, looks.deviation, looks.sharpness, looks.brightness),
    )


def _version() -> list[object]:
    """Return the versions and settings on which the results of reading depend."""
    return [_VERSION, PIL.__version__, tf.__version__, Image.MAX_IMAGE_PIXELS]


def _encode(value: object) -> np.ndarray:
    return np.frombuffer(json.dumps(value).encode(), np.uint8)
