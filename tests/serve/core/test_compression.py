"""Unpacking gzip and zlib, within bounds."""

import asyncio
import gzip
import time
import tracemalloc

import pytest

from keras_cnns_serve.core import compression
from keras_cnns_serve.core.limits import Budget, Claim
from keras_cnns_serve.core.threads import DECOMPRESSION
from keras_cnns_serve.errors import (
    DeadlineExceededError,
    InputTooLargeError,
    InvalidInputError,
    QueueFullError,
)

MEMBER = gzip.compress(b"")


def claim(limit: int = 2**32) -> Claim:
    return Claim(Budget(limit))


def decompress(packed: bytes, max_bytes: int) -> bytes:
    return compression.decompress(packed, "gzip", max_bytes, claim())


def test_members_of_every_size_are_unpacked() -> None:
    parts = [bytes(range(256)) * n for n in (0, 1, 7, 0, 300, 9000)]
    packed = b"".join(map(gzip.compress, parts))
    assert decompress(packed, 10**8) == b"".join(parts)
    assert asyncio.run(compression.decompress_async(packed, "gzip", 10**8, claim())) == b"".join(
        parts
    )


def test_many_members_do_not_copy_the_rest_for_each() -> None:
    """No decoder may hold a copy of all that follows its member."""
    packed = MEMBER * 500 + gzip.compress(bytes(10**5)) + b"\0" * 10**7
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInputError, match="cannot be decompressed"):
            decompress(packed, 10**8)
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


def test_members_are_bounded() -> None:
    with pytest.raises(InvalidInputError, match="more than 10,000 gzip members"):
        decompress(MEMBER * 10_001, 10**8)
    assert decompress(MEMBER * 10_000, 10**8) == b""


def test_the_bound_is_exact() -> None:
    packed, room = gzip.compress(bytes(1001)), 1000
    with pytest.raises(InputTooLargeError):
        decompress(packed, room)
    assert len(decompress(packed, room + 1)) == room + 1


def test_what_unpacks_to_much_is_unpacked_to_its_end() -> None:
    for size in (2**20 - 1, 2**20, 2**20 + 1, 3 * 2**20, 5 * 2**20 + 12345):
        assert decompress(gzip.compress(bytes(size)), 10**8) == bytes(size)
        assert decompress(gzip.compress(bytes(size)) * 2, 10**8) == bytes(2 * size)
        with pytest.raises(InvalidInputError, match="truncated"):
            decompress(gzip.compress(bytes(size))[:-1], 10**8)


def test_what_is_unpacked_is_claimed_as_it_grows() -> None:
    packed = gzip.compress(bytes(10 * 2**20))
    owner = claim(100 * 2**20)
    assert len(compression.decompress(packed, "gzip", 10**8, owner)) == 10 * 2**20
    assert owner.size == 20 * 2**20
    with pytest.raises(InputTooLargeError, match="half of --memory-budget"):
        compression.decompress(packed, "gzip", 10**8, claim(30 * 2**20))
    for size in (40, 10):
        Claim(owner._budget).add(size * 2**20)
    with pytest.raises(QueueFullError, match="of memory"):
        compression.decompress(packed, "gzip", 10**8, Claim(owner._budget))


@pytest.mark.parametrize("ended_by", ["deadline", "cancellation"])
def test_a_thread_that_unpacks_for_nobody_holds_nothing(ended_by: str) -> None:
    packed = gzip.compress(bytes(64 * 2**20))
    owner = claim()

    async def main() -> None:
        deadline = time.monotonic() + 0.01 if ended_by == "deadline" else None
        call = compression.decompress_async(packed, "gzip", 2**27, owner, deadline=deadline)
        if ended_by == "deadline":
            with pytest.raises(DeadlineExceededError):
                await call
        else:
            task = asyncio.create_task(call)
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        owner.release()
        await DECOMPRESSION.call(None, int)  # after the thread's current work
        assert owner._budget.used == 0

    asyncio.run(main())
