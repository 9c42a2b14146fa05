import asyncio
import gzip
import tracemalloc
from typing import Any

import pytest

from keras_cnns_serve.core.limits import Budget, Claim
from keras_cnns_serve.errors import (
    DeadlineExceededError,
    InputTooLargeError,
    InvalidInputError,
    QueueFullError,
    TooSlowError,
)
from keras_cnns_serve.transport.http import body

MEMBER = gzip.compress(b"")


def claim(limit: int = 2**32) -> Claim:
    return Claim(Budget(limit))


def unpack(packed: bytes, max_bytes: int) -> bytes:
    return body.unpack(packed, "gzip", max_bytes, claim())


def test_members_of_every_size_are_unpacked() -> None:
    parts = [bytes(range(256)) * n for n in (0, 1, 7, 0, 300, 9000)]
    packed = b"".join(map(gzip.compress, parts))
    assert unpack(packed, 10**8) == b"".join(parts)
    assert asyncio.run(body.unpack_beside(packed, "gzip", 10**8, claim())) == b"".join(parts)


def test_many_members_do_not_copy_the_rest_for_each() -> None:
    """No decoder may hold a copy of all that follows its member."""
    packed = MEMBER * 500 + gzip.compress(bytes(10**5)) + b"\0" * 10**7
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInputError, match="cannot be unpacked"):
            unpack(packed, 10**8)
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


def test_members_are_bounded() -> None:
    with pytest.raises(InvalidInputError, match="more than 10,000 gzip members"):
        unpack(MEMBER * 10_001, 10**8)
    assert unpack(MEMBER * 10_000, 10**8) == b""


def test_the_bound_is_exact() -> None:
    packed, room = gzip.compress(bytes(1001)), 1000
    with pytest.raises(InputTooLargeError):
        unpack(packed, room)
    assert len(unpack(packed, room + 1)) == room + 1


def test_what_unpacks_to_much_is_unpacked_to_its_end() -> None:
    for size in (2**20 - 1, 2**20, 2**20 + 1, 3 * 2**20, 5 * 2**20 + 12345):
        assert unpack(gzip.compress(bytes(size)), 10**8) == bytes(size)
        assert unpack(gzip.compress(bytes(size)) * 2, 10**8) == bytes(2 * size)
        with pytest.raises(InvalidInputError, match="cut short"):
            unpack(gzip.compress(bytes(size))[:-1], 10**8)


def test_what_is_unpacked_is_claimed_as_it_grows() -> None:
    packed = gzip.compress(bytes(10 * 2**20))
    owner = claim(100 * 2**20)
    assert len(body.unpack(packed, "gzip", 10**8, owner)) == 10 * 2**20
    assert owner.size == 20 * 2**20
    with pytest.raises(InputTooLargeError, match="half of --memory-budget"):
        body.unpack(packed, "gzip", 10**8, claim(30 * 2**20))
    for size in (40, 10):
        Claim(owner._budget).add(size * 2**20)
    with pytest.raises(QueueFullError, match="of memory"):
        body.unpack(packed, "gzip", 10**8, Claim(owner._budget))


class Sender:
    """Send pieces of a body, and note how much of it was read."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = asyncio.Queue[dict[str, Any]]()
        self.read = 0
        for piece in pieces:
            self.send(piece)

    def send(self, piece: bytes, more: bool = True) -> None:
        self.pieces.put_nowait({"type": "http.request", "body": piece, "more_body": more})

    async def receive(self) -> dict[str, Any]:
        message = await self.pieces.get()
        self.read += len(message["body"])
        return message


def test_a_body_is_claimed_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "DRAIN_SECONDS", 0.01)

    async def main() -> None:
        budget = Budget(10_000)
        owner, sender = Claim(budget), Sender(b"x" * 1000)
        sender.send(b"x" * 1000, more=False)
        limited = body.Limited(sender.receive, 5000, 2000, owner)
        first = await limited()
        assert (len(first["body"]), owner.size) == (1000, 4000)
        await limited()
        assert owner.size == 4000
        sender = Sender()
        with pytest.raises(QueueFullError):
            await body.Limited(sender.receive, 5000, 2000, Claim(budget))()
        with pytest.raises(InputTooLargeError, match="the JSON has more than 500 bytes"):
            await body.Limited(sender.receive, 500, 501, Claim(budget), None, "JSON")()
        assert sender.read == 0

    asyncio.run(main())


def test_a_body_of_unknown_length_is_claimed_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "DRAIN_SECONDS", 0.01)

    async def main() -> None:
        owner, sender = claim(10_000), Sender(*[b"x" * 1000] * 9)
        limited = body.Limited(sender.receive, 5000, 0, owner)
        await limited()
        assert owner.size == 2000
        await limited()
        assert owner.size == 4000
        with pytest.raises(InputTooLargeError, match="half of --memory-budget"):
            await limited()
        # The rest is read, and not kept, for a while: a client that sends does not read the answer.
        assert sender.read > 3000

    asyncio.run(main())


def test_a_body_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "BODY_SECONDS", 0.01)

    async def main() -> None:
        sender = Sender(b"123")
        async with asyncio.timeout(10):
            with pytest.raises(TooSlowError, match="3 bytes so far"):
                await body.read_body(body.Limited(sender.receive, 100, 0, claim()))
            whole = body.Limited(sender.receive, 100, 0, claim())
            sender.send(b"123", more=False)
            await whole()
            with pytest.raises(TimeoutError):  # to watch a client takes as long as it takes
                await asyncio.wait_for(whole(), 0.05)

    asyncio.run(main())


def test_a_body_that_stops_is_not_waited_for_however_much_has_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A megabyte would have 100 seconds at the slowest rate; that counts while it comes."""
    monkeypatch.setattr(body, "BODY_SECONDS", 0.05)

    async def main() -> None:
        sender = Sender(bytes(10**6))
        async with asyncio.timeout(10):
            with pytest.raises(TooSlowError, match="1,000,000 bytes so far"):
                await body.read_body(body.Limited(sender.receive, 10**7, 0, claim()))

    asyncio.run(main())


def test_a_body_is_not_waited_for_beyond_the_requests_deadline() -> None:
    async def main() -> None:
        sender = Sender(b"123")
        deadline = asyncio.get_running_loop().time() + 0.02
        async with asyncio.timeout(10):
            with pytest.raises(DeadlineExceededError, match="before its body: 3 bytes so far"):
                await body.read_body(body.Limited(sender.receive, 100, 0, claim(), deadline))

    asyncio.run(main())
