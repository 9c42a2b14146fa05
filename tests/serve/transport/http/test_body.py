import asyncio
from typing import Any

import pytest

from keras_cnns_serve.core.limits import Budget, Claim
from keras_cnns_serve.errors import (
    DeadlineExceededError,
    InputTooLargeError,
    QueueFullError,
    TooSlowError,
)
from keras_cnns_serve.transport.http import body


def claim(limit: int = 2**32) -> Claim:
    return Claim(Budget(limit))


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
        limited = body.LimitedReceive(sender.receive, 5000, 2000, owner)
        first = await limited()
        assert (len(first["body"]), owner.size) == (1000, 4000)
        await limited()
        assert owner.size == 4000
        sender = Sender()
        with pytest.raises(QueueFullError):
            await body.LimitedReceive(sender.receive, 5000, 2000, Claim(budget))()
        with pytest.raises(InputTooLargeError, match="the JSON has more than 500 bytes"):
            await body.LimitedReceive(sender.receive, 500, 501, Claim(budget), None, "JSON")()
        assert sender.read == 0

    asyncio.run(main())


def test_a_body_of_unknown_length_is_claimed_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "DRAIN_SECONDS", 0.01)

    async def main() -> None:
        owner, sender = claim(10_000), Sender(*[b"x" * 1000] * 9)
        limited = body.LimitedReceive(sender.receive, 5000, 0, owner)
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
                await body.read_body(body.LimitedReceive(sender.receive, 100, 0, claim()))
            whole = body.LimitedReceive(sender.receive, 100, 0, claim())
            sender.send(b"123", more=False)
            await whole()
            with pytest.raises(TimeoutError):  # watching a client has no time limit
                await asyncio.wait_for(whole(), 0.05)

    asyncio.run(main())


def test_a_body_that_stops_is_not_waited_for_however_much_has_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A megabyte may take 100 seconds at the slowest rate, but only while bytes keep arriving."""
    monkeypatch.setattr(body, "BODY_SECONDS", 0.05)

    async def main() -> None:
        sender = Sender(bytes(10**6))
        async with asyncio.timeout(10):
            with pytest.raises(TooSlowError, match="1,000,000 bytes so far"):
                await body.read_body(body.LimitedReceive(sender.receive, 10**7, 0, claim()))

    asyncio.run(main())


def test_a_body_is_not_waited_for_beyond_the_requests_deadline() -> None:
    async def main() -> None:
        sender = Sender(b"123")
        deadline = asyncio.get_running_loop().time() + 0.02
        async with asyncio.timeout(10):
            with pytest.raises(
                DeadlineExceededError, match="before its body arrived: 3 bytes so far"
            ):
                await body.read_body(body.LimitedReceive(sender.receive, 100, 0, claim(), deadline))

    asyncio.run(main())
