"""Read text files from any editor and system, and write files atomically."""

import codecs
import errno
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ENCODING = "utf-8-sig"  # UTF-8, whose byte order mark is removed
PARTIAL = ".partial"  # part of the name of a temporary file that is being written
_FULL = (errno.ENOSPC, errno.EDQUOT)
_CANNOT_WRITE = (*_FULL, errno.EROFS, errno.EFBIG)  # reading never fails with these errors


def read_text(path: str | Path, *, errors: str = "strict") -> str:
    """Return the text of a UTF-8 file without a byte order mark; lines end with "\\n".

    Args:
        path: the file.
        errors: how bytes that are not UTF-8 are decoded, as in `bytes.decode`.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not UTF-8; the message contains its name and a remedy.
    """
    content = Path(path).read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(
            f"{path} is in UTF-16; save it as UTF-8 (Windows Notepad: Save as, Encoding UTF-8)"
        )
    try:
        text = content.decode(ENCODING, errors)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8: {error}; save it as UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_labels(path: str | Path) -> tuple[str, ...]:
    """Return the labels in a file with one label on each line.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not UTF-8, or a line is blank or repeats an earlier line.
    """
    # splitlines() would also split at characters that may be part of a label.
    labels = read_text(path).removesuffix("\n").split("\n")
    first: dict[str, int] = {}
    for line, label in enumerate(labels, 1):
        if not label.strip():
            raise ValueError(f"{path}: line {line} is blank; each line is the label of one class")
        if label in first:
            raise ValueError(
                f"{path}: line {line} repeats the label {label!r} of line {first[label]}; each "
                "class needs its own label"
            )
        first[label] = line
    return tuple(labels)


@contextmanager
def replacing(path: Path, *, is_shared: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; flush it to disk and rename it to `path`.

    A reader always finds either the previous file or the complete new file, even after a crash. If
    the block fails, the previous file stays unchanged. The temporary path has the suffixes of
    `path`.

    Args:
        path: the file.
        is_shared: whether other processes may write the same file at the same time. The temporary
            path then contains a random number. By default, it is always the same, so that killed
            processes together leave at most one temporary file.

    Raises:
        OSError: for example, the disk is full; the error's `filename` is `path`.
    """
    partial = _temporary(path, is_shared=is_shared)
    try:
        yield partial
        flush(partial)
        partial.replace(path)
        if os.name == "posix":  # also flush the new name; Windows cannot open a directory
            flush(path.parent)
    except BaseException as error:
        if partial.is_file():
            partial.unlink()
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(partial)):
            error.filename = str(path)  # the error of a failed write has no file name
        raise


def _temporary(path: Path, *, is_shared: bool) -> Path:
    """Return the path of the temporary file of `replacing`."""
    stem, dot, suffixes = path.name.partition(".")
    number = f"-{uuid.uuid4().hex[:12]}" if is_shared else ""
    return path.with_name(f"{stem}{PARTIAL}{number}{dot}{suffixes}")


def flush(path: Path) -> None:
    """Flush a file's content, or a directory's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str, *, is_shared: bool = False) -> None:
    """Write a text file atomically, in UTF-8; `is_shared` is that of `replacing`."""
    with replacing(path, is_shared=is_shared) as partial:
        partial.write_text(text, "utf-8")


def create_text(path: Path, text: str) -> None:
    """Write a new text file atomically, in UTF-8.

    Raises:
        FileExistsError: the file exists already; it is not changed.
    """
    partial = _temporary(path, is_shared=True)
    try:
        partial.write_text(text, "utf-8")
        flush(partial)
        try:
            os.link(partial, path)  # unlike a renamed file, a link replaces no file
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def encode_names(text: str) -> bytes:
    """Encode a text in UTF-8; bytes of file names that are not UTF-8 are restored unchanged."""
    return text.encode("utf-8", "surrogateescape")


def write_names(path: Path, text: str, *, is_shared: bool = False) -> None:
    """Write a text that contains file names, encoded by `encode_names`, as `write_text` does."""
    with replacing(path, is_shared=is_shared) as partial:
        partial.write_bytes(encode_names(text))


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


@contextmanager
def naming_the_file(path: Path) -> Iterator[None]:
    """Add the file's name and a remedy to the message of an error that occurs while writing `path`.

    Raises:
        OSError: the block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        remedy = "free space" if error.errno == errno.ENOSPC else "remove the cause"
        raise OSError(
            f"cannot write {path}: {error.strerror or error}; {remedy} and give the same command "
            "again"
        ) from error


def describe_os_error(error: OSError) -> str:
    """Return a sentence for an error of the operating system: what failed, where and why."""
    name = error.filename  # a path, a file descriptor, or None, for example after a failed write
    path = None if isinstance(name, int | None) else Path(os.fsdecode(name))
    if path is None and error.errno not in _CANNOT_WRITE:  # for example, an error of a connection
        return str(error.strerror)
    verb = "write" if error.errno in _CANNOT_WRITE else "write or read"
    where = "" if path is None else f" {path}"
    return f"cannot {verb}{where}: {_reason(error, path)}"


def _reason(error: OSError, path: Path | None) -> str:
    """Return the reason of an error of the operating system and, for a full disk, the remedy."""
    if path is not None and error.errno in (errno.ENOTDIR, errno.EEXIST):
        for each in (path, *path.parents):
            if each.is_file():
                return f"{each} is a file, not a directory"
    if path is not None and error.errno == errno.ENOENT and not path.parent.exists():
        return f"there is no directory {path.parent}"
    remedy = "; free space and give the same command again" if error.errno in _FULL else ""
    return f"{error.strerror}{remedy}"
