"""Call functions that may hang, in threads that can be abandoned."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Protocol, TypeVar

T = TypeVar("T")

_INTERRUPT_SECONDS = 1.0  # maximum seconds to wait until an interrupted library returns


class Interruptible(Protocol):
    """An engine whose runs can be interrupted."""

    def interrupt(self) -> None:
        """End the runs in progress and make later ones fail, if the library supports this."""


class Interruption:
    """Interrupt all engines of a trial run, including those that are opened later."""

    def __init__(self) -> None:
        self._engines: list[Interruptible] = []
        self._over = threading.Event()

    def add(self, engine: Interruptible) -> None:
        """Add an engine that `end` interrupts; interrupt it now if `end` was called before."""
        self._engines.append(engine)
        if self._over.is_set():
            engine.interrupt()

    def end(self) -> None:
        """Interrupt all engines."""
        self._over.set()
        for engine in list(self._engines):
            engine.interrupt()


def call(work: Callable[[], T]) -> Future[T]:
    """Call a function in a new daemon thread, which does not delay the end of the process."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="load", daemon=True).start()
    return future


def call_within(seconds: float, work: Callable[[Interruption], T]) -> T:
    """Call a function; after `seconds`, interrupt its engines and abandon its thread.

    Args:
        seconds: the time limit.
        work: the function; it calls `add` of its argument for each engine that it opens.

    Returns:
        The result of the function.

    Raises:
        TimeoutError: the function has not returned in time.
    """
    interruption = Interruption()
    called = call(lambda: work(interruption))
    if not wait([called], seconds).done:
        interruption.end()
        wait([called], _INTERRUPT_SECONDS)
        raise TimeoutError
    return called.result()
