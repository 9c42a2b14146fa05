"""Lock run directories and files against other processes."""

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
    # Windows cannot open a directory.
    descriptor = os.open(directory, os.O_RDONLY) if os.name == "posix" else None
    try:
        if descriptor is not None:
            lock(descriptor)
        yield
    finally:
        if is_new and not any(directory.iterdir()):
            directory.rmdir()
        if descriptor is not None:
            os.close(descriptor)


def lock(descriptor: int) -> None:
    """Lock an open file or directory until it is closed, if the system can.

    Raises:
        BlockingIOError: another process holds the lock.
    """
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks
        pass
