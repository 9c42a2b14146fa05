"""Limits of what a client may claim or take time for."""

import contextlib
import math
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from keras_cnns_serve.errors import InputTooLargeError, InvalidInputError, QueueFullError

MAX_RANK = 8
INLINE_BYTES = 50_000  # values of this length take longer to parse than a thread to wake
BODY_SECONDS = 20  # in which nothing of a body may come; more of it must come at this rate:
SLOWEST_RATE = 10_000  # bytes a second
COPIES = 2  # of a body, at most, while its pieces are joined or its parts are taken from it
PART_FOR_CLIENTS = 4  # the budget is this part of the memory that the process may use
UNKNOWN_MEMORY = 4 * 2**30  # bytes; assumed where the system does not report any


def checked_shape(
    sizes: Sequence[Any], item_bytes: int, name: str, max_bytes: int = 2**40
) -> tuple[int, ...]:
    """Return the sizes as a shape that an array can have.

    Args:
        sizes: as the client sent them.
        item_bytes: of one element.
        name: the tensor's, for errors.
        max_bytes: the most that its elements may take.

    Raises:
        InvalidInputError: a size is not an integer of at least 0, or there are too many.
        InputTooLargeError: the elements take more than `max_bytes`.
    """
    # Exactly int: True is one to Python.
    if len(sizes) > MAX_RANK or not all(type(size) is int and size >= 0 for size in sizes):
        raise InvalidInputError(
            f"{name} has the shape {list(sizes[:9])!s:.80}; a shape has at most {MAX_RANK} "
            "sizes, each an integer of at least 0"
        )
    # An empty array has strides, too: they must not overflow.
    if math.prod(size or 1 for size in sizes) * item_bytes > max_bytes:
        raise InputTooLargeError(
            f"{name} of shape {list(sizes)!s:.200} has more than {max_bytes:,} bytes"
        )
    return tuple(sizes)


class Budget:
    """The memory that all clients together can make the server hold.

    A claim is granted only if it leaves as much free as its owner then holds: a few large requests
    cannot take what small ones need. One request can therefore hold at most half of the budget.
    Safe for many threads.

    Args:
        limit: Bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0  # bytes
        self._changed = threading.Condition(threading.Lock())
        self._waiting = 0  # threads

    def claim(self, size: int = 0) -> "Claim":
        """Return a claim of so many bytes; raise as `Claim.add` does."""
        claim = Claim(self)
        if size:
            claim.add(size)
        return claim

    def _take(self, claim: "Claim", size: int, seconds: float) -> None:
        with self._changed:
            wanted = claim.size + size
            if wanted > self.limit // 2:
                raise InputTooLargeError(
                    f"the request takes about {_spell(wanted)} of memory; one request can have "
                    f"{_spell(self.limit // 2)}, half of --memory-budget"
                )
            if self.used + size + wanted > self.limit and not self._wait(size + wanted, seconds):
                raise QueueFullError(
                    f"the requests in progress hold {_spell(self.used)} of the "
                    f"{_spell(self.limit)} of memory that clients can have"
                )
            if claim.released:  # by its owner, for whom another thread still works
                raise QueueFullError("the request has ended")
            self.used += size
            claim.size += size

    def _wait(self, needed: int, seconds: float) -> bool:
        """Wait until so much is free, and return whether it is."""
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
    """What one owner, such as a request, holds of a budget; release it at the end.

    Args:
        budget: The budget.
    """

    __slots__ = ("_budget", "released", "size")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.size = 0  # bytes
        self.released = False  # a thread that still works for the owner can claim nothing more

    def add(self, size: int, seconds: float = 0.0) -> None:
        """Claim further bytes, and wait for them at most so many seconds.

        Raises:
            InputTooLargeError: The claim would be more than one owner can have.
            QueueFullError: So much is not free, or the claim was released.
        """
        self._budget._take(self, size, seconds)

    def shrink(self, size: int) -> None:
        """Give back what is held beyond so many bytes."""
        self._budget._shrink(self, size)

    def release(self) -> None:
        """Give everything back, for good."""
        self.released = True
        self._budget._shrink(self, 0)

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _spell(size: int) -> str:
    return f"{max(1, round(size / 1e6)):,} MB"


def usable_memory(root: Path = Path("/")) -> int:
    """Return the bytes that this process may use: of the machine, its cgroups and its own limit.

    Args:
        root: Of the file system with /proc and /sys.
    """
    return min(_memory_limits(root), default=UNKNOWN_MEMORY)


def _memory_limits(root: Path) -> Iterator[int]:
    with contextlib.suppress(AttributeError, ValueError, OSError):
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(ImportError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            yield limit
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:  # version 2
                yield from _cgroup_limits(root / "sys/fs/cgroup", path, "memory.max")
            elif "memory" in controllers.split(","):
                directory = root / "sys/fs/cgroup/memory"
                yield from _cgroup_limits(directory, path, "memory.limit_in_bytes")


def _cgroup_limits(directory: Path, path: str, name: str) -> Iterator[int]:
    """Yield the limits of a cgroup and of those that it is in.

    In a container the path may be the host's, which is not there: its own files are at the top.
    """
    group = directory / path.lstrip("/")
    for each in (group, *group.parents):
        if each.is_relative_to(directory):
            with contextlib.suppress(OSError, ValueError):  # "max" is no limit
                yield int((each / name).read_text())
