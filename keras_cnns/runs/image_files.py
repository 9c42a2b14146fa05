"""Find image files by folder or pattern, and read them in batches.

If a file cannot be read, its batch contains the error instead of the pixels.
"""

import glob
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np

from keras_cnns.cores import available_cores
from keras_cnns.data import preprocess, read_image
from keras_cnns.data.sources.folder.files import CONVERTIBLE, EXTENSIONS
from keras_cnns.data.sources.folder.findings import printable
from keras_cnns.data.sources.folder.layout import walk
from keras_cnns.messages import print_message
from keras_cnns.recipes import DataConfig

_BATCH_SIZE = 32  # number of images
# The suffixes include formats that must be converted, so that such files become errors and are not
# skipped.
_SUFFIXES = {suffix for kind in (EXTENSIONS | CONVERTIBLE).values() for suffix in kind}

ReadFile = tuple[Path, np.ndarray | Exception]  # pixels uint8 [H, W, C], or the error


def find_image_files(names: Iterable[str | Path]) -> list[Path]:
    """Return the named files, the files in folders and the matches of patterns, without duplicates.

    Links to folders inside a folder are not followed; a message names the first of them.

    Args:
        names: files, which need not exist; folders, in which all files with an image's suffix are
            found at any depth, except hidden files; or patterns such as `photos/**/*.jpg`.

    Raises:
        ValueError: a pattern matches nothing, or a folder has no image in it.
    """
    found: dict[Path, None] = {}
    links: list[Path] = []
    given = list(map(Path, names))
    for name in given:
        matches = [name]
        if not name.exists() and glob.has_magic(str(name)):
            matches = sorted(_glob(name))
            if not matches:
                raise ValueError(f"no file matches {name}")
        for match in matches:
            files = [match]
            if match.is_dir():
                files = sorted(filter(_has_image_name, walk(match, links)))
            if not files and match == name:
                raise ValueError(f"there is no image in the folder {name}")
            found |= dict.fromkeys(files)
    if not found:
        raise ValueError(f"there is no image in {', '.join(map(str, given))}")
    if links:
        is_one = len(links) == 1
        number = "1 link to a folder was" if is_one else f"{len(links):,} links to folders were"
        others = "" if is_one else " and others"
        print_message(f"{number} not followed: {printable(str(links[0]))}{others}")
    return list(found)


def read_files(
    paths: Iterable[str | Path], data: DataConfig, batch_size: int = _BATCH_SIZE
) -> Iterator[list[ReadFile]]:
    """Yield batches of files with preprocessed pixels; the next batch is read in the background.

    At most two batches of images are in memory.

    Args:
        paths: JPEG, PNG, WebP, BMP or GIF files.
        data: the preprocessing.
        batch_size: the number of files in a batch.
    """
    remaining = map(Path, paths)
    with ThreadPoolExecutor(available_cores()) as pool:

        def submit() -> list[tuple[Path, Future[np.ndarray | Exception]]]:
            batch = islice(remaining, batch_size)
            return [(path, pool.submit(_read, path, data)) for path in batch]

        current = submit()
        while current:
            following = submit()
            yield [(path, pixels.result()) for path, pixels in current]
            current = following


def describe_problem(path: Path, error: Exception) -> str:
    """Return the reason why a file could not be read, without the file's name."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).removeprefix(f"{path}: ") or type(error).__name__


def _read(path: Path, data: DataConfig) -> np.ndarray | Exception:
    """Return the preprocessed pixels of a file, uint8 [H, W, C], or the error."""
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for a writer
            raise ValueError(f"{path}: not a regular file")
        return np.asarray(preprocess(read_image(path, data.channels), data.preprocessing()))
    except (OSError, ValueError) as error:
        return error


def _has_image_name(path: Path) -> bool:
    return not path.name.startswith(".") and path.suffix.lower() in _SUFFIXES


def _glob(pattern: Path) -> Iterator[Path]:
    """Yield the paths that match a pattern; `*` and `**` match no hidden names.

    Unlike in glob.glob, `**` does not follow links, which can lead back to a folder above them.
    """
    relative = pattern.relative_to(pattern.anchor)
    for path in Path(pattern.anchor).glob(str(relative)):
        if not any(part[0] == "." and part not in pattern.parts for part in path.parts):
            yield path
