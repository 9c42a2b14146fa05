import asyncio
import threading
import time

import pytest

from keras_cnns_serve.core.threads import Threads
from keras_cnns_serve.errors import DeadlineExceededError


def test_a_call_returns_or_raises_what_the_function_does() -> None:
    threads = Threads("test", 1)

    async def main() -> None:
        name = await threads.call(None, lambda: threading.current_thread().name)
        assert name.startswith("test")
        assert await threads.call(time.monotonic() + 20, int, "11", base=2) == 3
        with pytest.raises(ValueError, match="invalid literal"):
            await threads.call(None, int, "x")

    asyncio.run(main())


def test_a_deadline_ends_the_wait_and_drops_what_has_not_begun() -> None:
    threads = Threads("test", 1)
    go = threading.Event()
    called: list[int] = []

    async def main() -> None:
        async with asyncio.timeout(20):
            first = asyncio.create_task(threads.call(None, go.wait))
            await asyncio.sleep(0.01)
            for seconds in (-1.0, 0.01):
                with pytest.raises(DeadlineExceededError, match="the request's deadline passed"):
                    await threads.call(time.monotonic() + seconds, called.append, 1)
            go.set()
            await first
            await threads.call(None, called.append, 2)

    asyncio.run(main())
    assert called == [2]
