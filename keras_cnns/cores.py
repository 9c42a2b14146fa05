"""Count the CPU cores that this process may use."""

import os


def available_cores() -> int:
    """Return the number of CPU cores that this process may use, at least 1.

    In a container these can be fewer than the machine has. macOS and Windows have no such limit.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
