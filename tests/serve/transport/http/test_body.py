import asyncio
import gzip
import tracemalloc
from typing import Any

import pytest

from keras_cnns_serve.core import limits
from keras_cnns_serve.errors import InputTooLargeError, InvalidInputError, TooSlowError
from keras_cnns_serve.transport.http import body

MEMBER = gzip.compress(b"")


def test_members_of_every_size_are_unpacked() -> None:
    parts = [bytes(range(256)) * n for n in (0, 1, 7, 0, 300, 9000)]
    packed = b"".join(map(gzip.compress, parts))
    assert body.unpack(packed, "gzip", 10**8) == b"".join(parts)
    assert asyncio.run(body.unpack_beside(packed, "gzip", 10**8)) == b"".join(parts)


def test_many_members_do_not_copy_the_rest_for_each() -> None:
    """No decoder may hold a copy of all that follows its member."""
    packed = MEMBER * 500 + gzip.compress(bytes(10**5)) + b"\0" * 10**7
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInputError, match="cannot be unpacked"):
            body.unpack(packed, "gzip", 10**8)
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


def test_members_are_bounded() -> None:
    with pytest.raises(InvalidInputError, match="more than 10,000 gzip members"):
        body.unpack(MEMBER * 10_001, "gzip", 10**8)
    assert body.unpack(MEMBER * 10_000, "gzip", 10**8) == b""


def test_the_bound_is_exact() -> None:
    packed, room = gzip.compress(bytes(1001)), 1000
    with pytest.raises(InputTooLargeError):
        body.unpack(packed, "gzip", room)
    assert len(body.unpack(packed, "gzip", room + 1)) == room + 1


def test_a_body_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.01)

    async def main() -> None:
        pieces = asyncio.Queue[dict[str, Any]]()
        pieces.put_nowait({"type": "http.request", "body": b"123", "more_body": True})
        async with asyncio.timeout(10):
            with pytest.raises(TooSlowError, match="3 bytes so far"):
                await body.read_body(pieces.get, 100)
            whole = body.Limited(pieces.get, 100, 0)
            pieces.put_nowait({"type": "http.request", "body": b"123", "more_body": False})
            await whole()
            with pytest.raises(TimeoutError):  # to watch a client takes as long as it takes
                await asyncio.wait_for(whole(), 0.05)

    asyncio.run(main())
