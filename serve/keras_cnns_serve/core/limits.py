"""Limits of the memory and time that clients can use."""

import contextlib
import math
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from keras_cnns_serve.errors import InputTooLargeError, InvalidInputError, QueueFullError

MAX_RANK = 8
# Larger requests are parsed in a thread; parsing a smaller one is faster than waking up a thread.
INLINE_BYTES = 50_000
# Maximum seconds for which the arrival of a body may pause. Apart from pauses, a body must arrive
# with at least `MIN_BYTES_PER_SECOND`.
BODY_SECONDS = 20
MIN_BYTES_PER_SECOND = 10_000
# Maximum number of copies of a body in memory, while its pieces are joined or the body is split.
COPIES = 2
BUDGET_DIVISOR = 4  # the default budget is the usable memory divided by this
_UNKNOWN_MEMORY = 4 * 2**30  # bytes of memory that are assumed if the system reports no limit


def checked_shape(
    sizes: Sequence[Any], item_bytes: int, name: str, max_bytes: int = 2**40
) -> tuple[int, ...]:
    """Check the sizes that a client sent, and return them as the shape of an array.

    Args:
        sizes: the sizes that the client sent.
        item_bytes: bytes of an element.
        name: the tensor's name in errors.
        max_bytes: the maximum size of the array.

    Raises:
        InvalidInputError: a size is not an integer of at least 0, or there are too many sizes.
        InputTooLargeError: the array would be larger than `max_bytes`.
    """
    # isinstance would accept True as an integer.
    if len(sizes) > MAX_RANK or not all(type(size) is int and size >= 0 for size in sizes):
        raise InvalidInputError(
            f"{name} has the shape {list(sizes[:9])!s:.80}; a shape has at most {MAX_RANK} "
            "sizes, each an integer of at least 0"
        )
    # Count sizes of 0 as 1, because even the strides of an empty array must not overflow.
    if math.prod(size or 1 for size in sizes) * item_bytes > max_bytes:
        raise InputTooLargeError(
            f"{name} of shape {list(sizes)!s:.200} has more than {max_bytes:,} bytes"
        )
    return tuple(sizes)


class Budget:
    """The memory that the requests of all clients together can use.

    After a claim has grown, the free memory must still be at least as large as the claim. A few
    large requests therefore leave memory for small requests, and one request can hold at most half
    of the budget. The class is thread-safe.

    Args:
        limit: the maximum number of bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0  # bytes
        self._changed = threading.Condition(threading.Lock())
        self._waiting = 0  # number of threads

    def claim(self, size: int = 0) -> "Claim":
        """Return a claim of `size` bytes; the errors are those of `Claim.add`."""
        claim = Claim(self)
        if size:
            claim.add(size)
        return claim

    def _extend(self, claim: "Claim", size: int, seconds: float) -> None:
        with self._changed:
            wanted = claim.size + size
            if wanted > self.limit // 2:
                raise InputTooLargeError(
                    f"the request needs about {_spell(wanted)} of memory; the limit of a request "
                    f"is {_spell(self.limit // 2)}, half of --memory-budget"
                )
            if self.used + size + wanted > self.limit and not self._wait(size + wanted, seconds):
                raise QueueFullError(
                    f"the requests in progress hold {_spell(self.used)} of the "
                    f"{_spell(self.limit)} of memory for all clients; the rest is too small for "
                    "this request"
                )
            if claim.released:  # the owner has released it in another thread
                raise QueueFullError("the request has ended")
            self.used += size
            claim.size += size

    def _wait(self, needed: int, seconds: float) -> bool:
        """Wait until `needed` bytes are free, and return whether they are."""
        if seconds <= 0:
            return False
        self._waiting += 1
        try:
            return self._changed.wait_for(lambda: self.used + needed <= self.limit, seconds)
        finally:
            self._waiting -= 1

    def _shrink(self, claim: "Claim", size: int) -> None:
        with self._changed:
            if size < claim.size:
                self.used -= claim.size - size
                claim.size = size
                if self._waiting:
                    self._changed.notify_all()


class Claim:
    """The part of a budget that one owner, such as a request, holds and must release.

    Args:
        budget: the budget.
    """

    __slots__ = ("_budget", "released", "size")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.size = 0  # bytes
        self.released = False  # whether it was released; after that, `add` fails

    def add(self, size: int, seconds: float = 0.0) -> None:
        """Claim `size` more bytes, and wait for them at most `seconds`.

        Raises:
            InputTooLargeError: the claim would exceed the limit of one owner.
            QueueFullError: there is not enough free memory, or the claim was released.
        """
        self._budget._extend(self, size, seconds)

    def shrink(self, size: int) -> None:
        """Reduce the claim to `size` bytes, if it is larger."""
        self._budget._shrink(self, size)

    def release(self) -> None:
        """Return all bytes to the budget; after that, `add` fails."""
        self.released = True
        self._budget._shrink(self, 0)

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _spell(size: int) -> str:
    return f"{max(1, round(size / 1e6)):,} MB"


def usable_memory(root: Path = Path("/")) -> int:
    """Return the smallest memory limit of the machine, the cgroups and the process, in bytes.

    Args:
        root: the directory that contains proc and sys.
    """
    return min(_memory_limits(root), default=_UNKNOWN_MEMORY)


def usable_cores(root: Path = Path("/")) -> int:
    """Return the number of cores that this process may use; a container may limit it.

    A quota of 2.5 cores counts as 2, since the system would pause three threads in each of its
    scheduling periods.

    Args:
        root: the directory that contains proc and sys.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return min(cores, max(1, int(min(_core_quotas(root), default=cores))))


def _memory_limits(root: Path) -> Iterator[int]:
    with contextlib.suppress(AttributeError, ValueError, OSError):
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(ImportError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            yield limit
    for group, version in _cgroups(root, "memory"):
        name = "memory.max" if version == 2 else "memory.limit_in_bytes"
        with contextlib.suppress(OSError, ValueError):  # "max" is no limit
            yield int((group / name).read_text())


def _core_quotas(root: Path) -> Iterator[float]:
    for group, version in _cgroups(root, "cpu"):
        names = ("cpu.max",) if version == 2 else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        with contextlib.suppress(OSError, ValueError):  # "max" is no quota
            quota, period = map(int, " ".join((group / name).read_text() for name in names).split())
            if quota > 0 and period > 0:  # in version 1, a quota of -1 means no quota
                yield quota / period


def _cgroups(root: Path, controller: str) -> Iterator[tuple[Path, int]]:
    """Yield the directories of the process's cgroup and its ancestors, with their version, 1 or 2.

    In a container, the reported path may be a path on the host, which does not exist in the
    container. The files of the container's own cgroup are then in the top directory.
    """
    mounted = root / "sys/fs/cgroup"
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                top, version = mounted, 2
            elif controller in controllers.split(","):
                top, version = mounted / controller, 1
            else:
                continue
            group = top / path.lstrip("/")
            for each in (group, *group.parents):
                if each.is_relative_to(top):
                    yield each, version
