"""Memory that was freed, and that the process still holds."""

import contextlib
import ctypes
import gc


def give_memory_back() -> None:
    """Return freed memory to the system, where libc can do so.

    glibc keeps it for later; to a server's neighbours it is gone.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
