"""Lock run directories and files against other processes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(directory: Path, *, wait: bool = False) -> Iterator[None]:
    """Create a directory if it is missing, and lock it against other processes.

    The operating system releases the lock when the process ends for any reason. Windows and some
    file systems have no such lock, so nothing is locked there. A directory that this function
    created is removed again if it is empty at the end.

    Args:
        directory: the directory.
        wait: whether to wait until no other process holds the lock.

    Raises:
        BlockingIOError: another process holds the lock, and `wait` is False.
    """
    is_new = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    # Windows cannot open a directory.
    descriptor = os.open(directory, os.O_RDONLY) if os.name == "posix" else None
    try:
        if descriptor is not None:
            lock(descriptor, wait=wait)
        try:
            yield
        finally:
            if is_new and not any(directory.iterdir()):
                directory.rmdir()
    finally:
        if descriptor is not None:
            os.close(descriptor)


def lock(descriptor: int, *, wait: bool = False) -> bool:
    """Lock an open file or directory until it is closed, and return whether this is possible.

    Windows and some file systems have no such lock.

    Args:
        descriptor: the descriptor of the file or directory.
        wait: whether to wait until no other process holds the lock.

    Raises:
        BlockingIOError: another process holds the lock, and `wait` is False.
    """
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks
        return False
    return True
