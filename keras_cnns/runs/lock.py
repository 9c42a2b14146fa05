"""Lock a run directory, which belongs to one process at a time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Create a directory if it is missing, and keep other processes from locking it.

    The operating system holds the lock and releases it when the process ends, in whatever way.
    Windows has no such lock for a directory: there nothing is locked. A directory that was created
    here and stays empty is removed again.

    Raises:
        BlockingIOError: another process holds the lock.
    """
    is_new = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory):
        try:
            yield
        finally:
            if is_new and not any(directory.iterdir()):
                directory.rmdir()


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
