"""The number of CPU cores that this process may use, and the instructions that the CPU has."""

import functools
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# The version of a cgroup -> the files with its CPU quota and period, in microseconds.
_QUOTA_FILES = {1: ("cpu.cfs_quota_us", "cpu.cfs_period_us"), 2: ("cpu.max",)}


def available_cores(root: Path = Path("/")) -> int:
    """Return the number of CPU cores that this process may use, at least 1.

    On Linux, a container can limit this number to fewer cores than the machine has, by a CPU
    affinity or a CPU quota. A quota of 2.5 cores counts as 2.

    Args:
        root: the directory that contains proc and sys.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, int(min([cores, *_quotas(root)])))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the CPU quotas of the process's cgroup and of its ancestors, in cores.

    In a container, the cgroup's path may be a path on the host, which does not exist in the
    container; the files of the container's own cgroup are in the top directory.
    """
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text("utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            version = 1 if controllers else 2
            group = root / "sys/fs/cgroup" / ("cpu" if controllers else "") / path.lstrip("/")
            for each in (group, *group.parents):
                with suppress(OSError, ValueError):  # "max" means that there is no quota
                    texts = [(each / name).read_text("utf-8") for name in _QUOTA_FILES[version]]
                    quota, period = map(int, " ".join(texts).split())
                    if quota > 0 and period > 0:  # in version 1, -1 means that there is no quota
                        yield quota / period


def has_avx512() -> bool:
    """Return whether this CPU has AVX-512; False if this is unknown, as on macOS and Windows."""
    return "avx512f" in _cpu_flags()


def has_bfloat16() -> bool:
    """Return whether this x86 CPU has bfloat16 instructions; False if this is unknown."""
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(_cpu_flags())


@functools.cache
def _cpu_flags() -> frozenset[str]:
    """Return the names of the CPU's instruction sets as Linux writes them; none if unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((each for each in lines if each.startswith("flags")), "").split())
