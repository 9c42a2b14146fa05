"""Files that are whole or not there."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial"  # in the name of a file that is being written


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; flush it to disk and rename it into place.

    A reader finds the former file or the new one, never half of one, and so does whoever looks
    after a crash. If the block fails, the former file stays as it was.
    """
    partial = path.with_name(f"{path.stem}{PARTIAL}{path.suffix}")
    try:
        yield partial
        flush(partial)
        partial.replace(path)
        if os.name == "posix":  # the new name too; elsewhere a directory cannot be opened
            flush(path.parent)
    except BaseException:
        if partial.is_file():
            partial.unlink()
        raise


@contextmanager
def needed(path: Path) -> Iterator[None]:
    """Have an error in writing `path` name it, and say what to do.

    Raises:
        OSError: the block did; `path` cannot be written.
    """
    try:
        yield
    except OSError as error:
        remedy = "free space" if error.errno == errno.ENOSPC else "mend that"
        raise OSError(
            f"cannot write {path}: {error.strerror or error}; {remedy} and give the same command "
            "again"
        ) from error


def flush(path: Path) -> None:
    """Have the disk hold what was written to a file, or to a directory's list of names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, "utf-8")
