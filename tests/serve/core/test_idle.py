import asyncio

import pytest

from keras_cnns_serve.core import idle
from keras_cnns_serve.core.dataplane import Dataplane


@pytest.mark.skipif(not idle.STATUS.exists(), reason="the system does not report the memory")
def test_memory_is_given_back_when_nothing_is_claimed(
    dataplane: Dataplane, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_back = asyncio.Event()
    monkeypatch.setattr(idle, "SECONDS", 0.01)
    monkeypatch.setattr(idle, "MIN_GROWTH", 2**26)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(
            idle, "give_memory_back", lambda: loop.call_soon_threadsafe(given_back.set)
        )
        task = asyncio.create_task(idle.give_memory_back_when_idle(dataplane))
        await asyncio.sleep(0.05)
        assert not given_back.is_set()
        claim = dataplane.budget.claim(1000)
        content = b"x" * 2**27  # which the process now has
        await asyncio.sleep(0.05)
        assert not given_back.is_set()
        claim.release()
        async with asyncio.timeout(10):
            await given_back.wait()
        given_back.clear()
        await asyncio.sleep(0.05)
        assert not given_back.is_set()  # once
        assert content
        task.cancel()

    asyncio.run(main())
