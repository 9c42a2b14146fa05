"""A run directory belongs to one process at a time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Make a directory, if it is not there, and keep other processes from locking it.

    The lock is the system's: it ends with the process, however that ends. If it was made
    here and stays empty, it is removed again.

    Raises:
        BlockingIOError: another process holds it.
    """
    is_new = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    if os.name != "posix":  # a directory cannot be opened there
        yield
        return
    import fcntl

    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            yield
        finally:
            if is_new and not any(directory.iterdir()):
                directory.rmdir()
    finally:
        os.close(descriptor)
