"""Lock a run directory, so that only one process trains in it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Create a directory if it is missing, and lock it against other processes.

    The operating system releases the lock when the process ends for any reason. Windows has no such
    lock for directories, so nothing is locked there. A directory that this function created is
    removed again if it is empty at the end.

    Raises:
        BlockingIOError: another process holds the lock.
    """
    is_new = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = _lock(directory)
    try:
        yield
    finally:
        if is_new and not any(directory.iterdir()):
            directory.rmdir()
        if descriptor is not None:
            os.close(descriptor)


def _lock(directory: Path) -> int | None:
    """Lock a directory and return the descriptor that holds the lock; None on Windows."""
    try:
        import fcntl
    except ImportError:
        return None
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
