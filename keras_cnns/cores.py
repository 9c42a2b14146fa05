"""The number of CPU cores that this process may use, and whether the CPU has AVX-512."""

import functools
import os
from pathlib import Path


def available_cores() -> int:
    """Return the number of CPU cores that this process may use, at least 1.

    On Linux, a container can limit this number to fewer cores than the machine has.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def has_avx512() -> bool:
    """Return whether this CPU has AVX-512; False if this is unknown, as on macOS and Windows."""
    try:
        return "avx512f" in Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return False
