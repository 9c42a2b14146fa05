"""Memory that was freed, and that the process still holds."""

import contextlib
import ctypes
import gc


def give_memory_back() -> None:
    """Free what only reference cycles hold, and return freed memory to the system."""
    gc.collect()
    trim()


def trim() -> None:
    """Return freed memory to the system, where libc can do so.

    glibc keeps it for later; to a server's neighbours it is gone.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
