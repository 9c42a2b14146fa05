import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from keras_cnns_serve.core.admin import AdminThread
from keras_cnns_serve.errors import DeadlineExceededError, ModelUnavailableError


@pytest.fixture
def changes() -> Iterator[AdminThread]:
    thread = AdminThread()
    yield thread
    thread.close()


class Slow:
    """A change that lasts until the test lets it end."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        assert self.go.wait(10)


def test_changes_are_made_one_by_one_in_a_daemon_of_their_own(changes: AdminThread) -> None:
    made: list[tuple[int, threading.Thread]] = []

    async def main() -> None:
        calls = [
            changes.call(None, lambda n=n: made.append((n, threading.current_thread())))  # type: ignore[misc]
            for n in range(8)
        ]
        await asyncio.gather(*calls)

    asyncio.run(main())
    assert [number for number, _ in made] == list(range(8))
    (thread,) = {thread for _, thread in made}
    assert (thread.name, thread.daemon) == ("admin", True)


@pytest.mark.parametrize("error", [ModelUnavailableError("no"), TimeoutError("of the disk")])
def test_its_error_is_raised(changes: AdminThread, error: Exception) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error), match=str(error)):
        asyncio.run(changes.call(time.monotonic() + 10, fail))


def test_what_ends_a_thread_does_not_end_this_one(changes: AdminThread) -> None:
    def leave() -> None:
        raise SystemExit("2")

    with pytest.raises(RuntimeError, match="SystemExit: 2"):
        asyncio.run(changes.call(None, leave))
    asyncio.run(changes.call(None, lambda: None))


def test_a_change_that_nobody_waits_for_is_not_begun(changes: AdminThread) -> None:
    slow = Slow()
    made: list[str] = []

    async def main() -> None:
        first = asyncio.create_task(changes.call(None, slow))
        assert await asyncio.to_thread(slow.begun.wait, 10)
        with pytest.raises(DeadlineExceededError, match="before the models were changed"):
            await changes.call(time.monotonic() + 0.02, lambda: made.append("late"))
        cancelled = asyncio.create_task(changes.call(None, lambda: made.append("cancelled")))
        await asyncio.sleep(0)
        cancelled.cancel()
        last = asyncio.create_task(changes.call(None, lambda: made.append("last")))
        await asyncio.sleep(0)
        slow.go.set()
        await asyncio.gather(first, last)

    asyncio.run(main())
    assert made == ["last"]


def test_closing_waits_for_nothing_and_begins_nothing(changes: AdminThread) -> None:
    slow = Slow()

    async def main() -> None:
        first = asyncio.create_task(changes.call(None, slow))
        assert await asyncio.to_thread(slow.begun.wait, 10)
        second = asyncio.create_task(changes.call(None, lambda: None))
        await asyncio.sleep(0)
        changes.close()
        slow.go.set()
        await first
        with pytest.raises(ModelUnavailableError, match="server is stopping"):
            await second
        with pytest.raises(ModelUnavailableError, match="server is stopping"):
            await changes.call(None, lambda: None)

    asyncio.run(main())
