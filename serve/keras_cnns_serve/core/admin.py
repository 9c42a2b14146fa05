"""A thread that applies administrators' changes to the models, one after another."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue

from keras_cnns_serve.errors import ModelUnavailableError

from .threads import until

_STOPPING = "the server is stopping; its models cannot be changed"


@dataclass(frozen=True, slots=True)
class _Change:
    make: Callable[[], object]
    future: asyncio.Future[None]
    loop: asyncio.AbstractEventLoop


class AdminThread:
    """A thread for administrators' changes, so that other threads stay free to answer requests.

    It is a daemon thread, so that the process can end while a version is being loaded.
    """

    def __init__(self) -> None:
        self._changes: SimpleQueue[_Change | None] = SimpleQueue()
        self._closed = False
        self._thread: threading.Thread | None = None  # started by the first change
        self._starting = threading.Lock()

    async def call(self, deadline: float | None, make: Callable[[], object]) -> None:
        """Apply a change and wait for its end; skip it if the caller is cancelled before the start.

        Args:
            deadline: the value of `time.monotonic()` until which to wait; None: no limit.
            make: the function that applies the change.

        Raises:
            DeadlineExceededError: the deadline has passed; the change may still be in progress.
            ModelUnavailableError: the server is stopping.
        """
        if self._closed:
            raise ModelUnavailableError(_STOPPING)
        loop = asyncio.get_running_loop()
        change = _Change(make, loop.create_future(), loop)
        self._changes.put(change)
        self._start()
        await until(
            deadline, change.future, "the request's deadline passed before the models were changed"
        )

    def close(self) -> None:
        """Start no further change; end the thread when the change in progress is finished."""
        self._closed = True
        self._changes.put(None)

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="admin", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        while (change := self._changes.get()) is not None:
            if change.future.done():
                continue
            failure: Exception | None = None
            try:
                if self._closed:
                    raise ModelUnavailableError(_STOPPING)
                change.make()
            except Exception as error:
                failure = error
            except BaseException as error:  # raised by a library; this thread must continue
                failure = RuntimeError(f"{type(error).__name__}: {error}")
            with contextlib.suppress(RuntimeError):  # the loop is closed
                change.loop.call_soon_threadsafe(_resolve, change.future, failure)


def _resolve(future: asyncio.Future[None], failure: Exception | None) -> None:
    if future.done():
        return
    if failure is None:
        future.set_result(None)
    else:
        future.set_exception(failure)
