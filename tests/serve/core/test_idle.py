import asyncio

import pytest

from keras_cnns_serve.core import idle
from keras_cnns_serve.core.dataplane import Dataplane


def test_memory_is_given_back_when_nothing_is_claimed(
    dataplane: Dataplane, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_back = asyncio.Event()
    monkeypatch.setattr(idle, "SECONDS", 0.01)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(
            idle, "give_memory_back", lambda: loop.call_soon_threadsafe(given_back.set)
        )
        budget = dataplane.budget
        task = asyncio.create_task(idle.give_memory_back_when_idle(dataplane))
        budget.claim(1000).release()  # little
        await asyncio.sleep(0.05)
        claim = budget.claim(10**8)
        await asyncio.sleep(0.05)
        assert not given_back.is_set()
        claim.release()
        async with asyncio.timeout(10):
            await given_back.wait()
        given_back.clear()
        await asyncio.sleep(0.05)
        assert not given_back.is_set()
        task.cancel()

    asyncio.run(main())
