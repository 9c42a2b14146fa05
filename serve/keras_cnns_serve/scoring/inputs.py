"""Find the images to score, and read them.

The memory does not grow with the number of images: folders are walked entry by entry, and the names
are sorted in chunks, which are written to disk and then merged.
"""

import csv
import fnmatch
import heapq
import json
import os
import re
import stat
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import groupby, islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from keras_cnns_serve.errors import InputTooLargeError, InvalidInputError, ServeError

_IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"))
_LIST_SUFFIXES = (".csv", ".parquet")
_COLUMNS = ("file", "path", "filename", "image")  # names of the column with the paths
_MAGIC = re.compile(r"[*?\[]")
_SORTED_AT_ONCE = 100_000  # number of names that are sorted in memory at a time, about 10 MB
MAX_BYTES = 256 * 2**20  # maximum size of an encoded image
_OPEN = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def write_names(arguments: Sequence[str], file: IO[bytes], links: list[str]) -> int:
    """Write the names of all images, one JSON string on each line, and return their number.

    The images of folders, globs and single files come first, sorted and without duplicates. The
    images of lists follow, one for each line of a list, in the same order.

    Args:
        arguments: image files, folders, globs, lists and URIs.
        file: the file to write to.
        links: a list to which the function appends the links to folders that it finds; it does not
            follow them.

    Raises:
        InvalidInputError: an argument does not exist, a list is malformed, or there is no image.
    """
    lists = [each for each in arguments if _is_list(each)]
    found = (name for each in arguments if each not in lists for name in _expand(each, links))
    count = 0
    with closing(_sorted_unique(found)) as names:
        for name in names:
            file.write(json.dumps(name).encode() + b"\n")
            count += 1
    for each in lists:
        for name in _read_list(each):
            file.write(json.dumps(name).encode() + b"\n")
            count += 1
    if not count:
        raise InvalidInputError(
            f"there is no image in {', '.join(arguments)}; the names of images end in "
            f"{', '.join(sorted(_IMAGE_SUFFIXES))}"
        )
    return count


def read_names(path: Path, first: int = 0) -> Iterator[str]:
    """Yield the names in a file that `write_names` has written, from the index `first` on."""
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, islice(file, first, None))


def read_content(name: str) -> bytes:
    """Return the content of an image, given by its path or URI.

    Raises:
        InvalidInputError: the image cannot be read, or is not a file.
        InputTooLargeError: the image has more than `MAX_BYTES`.
    """
    try:
        if "://" in name:
            return _read_uri(name)
        descriptor = os.open(name, _OPEN)  # opening a pipe must not wait for its writer
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise InvalidInputError("it is not a file")
            _check_size(status.st_size)
            with os.fdopen(descriptor, "rb", buffering=0, closefd=False) as file:
                return file.readall()
        finally:
            os.close(descriptor)
    except ServeError:
        raise
    except Exception as error:  # a file system of fsspec can raise nearly any error
        reason = getattr(error, "strerror", None) or error or type(error).__name__
        raise InvalidInputError(f"it cannot be read: {reason}") from error


def _read_uri(uri: str) -> bytes:
    try:
        import fsspec
    except ImportError as error:
        raise InvalidInputError(
            "URIs need an extra: pip install 'keras-cnns-serve[uris]'"
        ) from error
    with fsspec.open(uri, "rb") as file:
        content: bytes = file.read(MAX_BYTES + 1)
    _check_size(len(content))
    return content


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise InputTooLargeError(f"it has more than {MAX_BYTES:,} bytes")


def _is_list(argument: str) -> bool:
    is_named_like_one = argument.lower().endswith(_LIST_SUFFIXES) and "://" not in argument
    return is_named_like_one and not os.path.isdir(argument)  # noqa: PTH112


def _expand(argument: str, links: list[str]) -> Iterator[str]:
    """Yield the names of the images in a file, folder, glob or URI, unsorted."""
    if "://" in argument:
        yield argument
    elif os.path.isdir(argument):  # noqa: PTH112 - not through Path, which drops a leading "./"
        yield from _walk(argument, links)
    elif os.path.lexists(argument):
        yield argument
    elif _MAGIC.search(argument):
        parts = argument.split("/")
        fixed = next(index for index, part in enumerate(parts) if _MAGIC.search(part))
        directory = "/".join(parts[:fixed]) or ("/" if fixed else "")
        names = _glob(directory, parts[fixed:], links)
        first = next(names, None)
        if first is None:
            raise InvalidInputError(f"no file matches {argument}")
        yield first
        yield from names
    else:
        raise InvalidInputError(
            f"{argument} does not exist; give image files, folders, globs in quotes, or .csv lists"
        )


def _walk(directory: str, links: list[str]) -> Iterator[str]:
    """Yield the image files below a folder; hidden files and folders are skipped."""
    for entry in _scan(directory):
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(_join(directory, entry.name), links)
        elif entry.is_symlink() and _is_directory(entry):
            links.append(_join(directory, entry.name))
        elif os.path.splitext(entry.name)[1].lower() in _IMAGE_SUFFIXES:  # noqa: PTH122 - faster
            yield _join(directory, entry.name)


def _glob(directory: str, patterns: Sequence[str], links: list[str]) -> Iterator[str]:
    """Yield the files whose path matches the patterns, part by part; `**` matches any depth."""
    pattern, *rest = patterns
    if pattern == "**":
        yield from _glob(directory, rest or ["*"], links)
        for entry in _scan(directory):
            if entry.is_dir(follow_symlinks=False):
                yield from _glob(_join(directory, entry.name), patterns, links)
            elif entry.is_symlink() and _is_directory(entry):
                links.append(_join(directory, entry.name))
        return
    matches = re.compile(fnmatch.translate(pattern)).fullmatch
    for entry in _scan(directory):
        if matches(entry.name):
            if rest and _is_directory(entry):
                yield from _glob(_join(directory, entry.name), rest, links)
            elif not rest and not _is_directory(entry):
                yield _join(directory, entry.name)


def _is_directory(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a directory, or a link to one; False for a loop of links."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _scan(directory: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(directory or ".") as entries:
            yield from (entry for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise InvalidInputError(f"{directory} cannot be read: {error.strerror}") from error


def _join(directory: str, name: str) -> str:
    return f"{directory.rstrip('/') if directory != '/' else ''}/{name}" if directory else name


def _sorted_unique(names: Iterable[str]) -> Generator[str, None, None]:
    """Yield names sorted and without duplicates; sorted chunks are kept on disk and merged."""
    remaining = iter(names)
    with ExitStack() as stack:
        runs: list[Iterator[str]] = []
        while chunk := sorted(islice(remaining, _SORTED_AT_ONCE)):
            if len(chunk) < _SORTED_AT_ONCE:  # the last chunk
                runs.append(iter(chunk))
                break
            file = stack.enter_context(TemporaryFile("w+", encoding="utf-8"))
            file.writelines(json.dumps(name) + "\n" for name in chunk)
            file.seek(0)
            runs.append(map(json.loads, file))
        yield from (name for name, _ in groupby(heapq.merge(*runs)))


def _read_list(path: str) -> Iterator[str]:
    """Yield the paths in a CSV or Parquet file; relative paths refer to the working directory."""
    try:
        if path.lower().endswith(".parquet"):
            yield from _read_parquet(path)
        else:
            yield from _read_csv(path)
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read: {error.strerror or error}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path} is not a list of paths: {error}") from error


def _read_csv(path: str) -> Iterator[str]:
    """Yield the column with the paths; this is the first one if no column has a known name."""
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        column = _column([name.strip().lower() for name in header])
        if column is None:  # the file has no header
            column = 0
            yield from header[:1]
        for row in rows:
            if len(row) > column:
                yield row[column]
            elif row:
                raise InvalidInputError(
                    f"{path}, line {rows.line_num}: this line has no column {header[column]!r}"
                )


def _read_parquet(path: str) -> Iterator[str]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise InvalidInputError(
            f"{path}: Parquet needs an extra: pip install 'keras-cnns-serve[parquet]'"
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            name = names[_column([each.lower() for each in names]) or 0]
            for batch in file.iter_batches(columns=[name], batch_size=10_000):
                for value in batch.column(0).to_pylist():
                    if not isinstance(value, str):
                        raise InvalidInputError(f"{path}: the column {name!r} must contain strings")
                    yield value
    except pyarrow.ArrowInvalid as error:
        raise InvalidInputError(f"{path} is not a list of paths: {error}") from error


def _column(names: Sequence[str]) -> int | None:
    """Return the index of the column with the paths; None if no column has a known name."""
    return next((names.index(name) for name in _COLUMNS if name in names), None)
