"""Work that may hang: it runs in a thread that can be left behind."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Protocol, TypeVar

T = TypeVar("T")

INTERRUPTED = 1.0  # seconds for a library to end what was interrupted


class Interruptible(Protocol):
    """Something whose runs can be ended."""

    def interrupt(self) -> None:
        """End the runs in progress, and fail later ones, as far as the library can."""


class Interruption:
    """Engines whose trial may have to be ended, also those that are opened after its end."""

    def __init__(self) -> None:
        self._engines: list[Interruptible] = []
        self._over = threading.Event()

    def add(self, engine: Interruptible) -> None:
        """Interrupt this engine, too."""
        self._engines.append(engine)
        if self._over.is_set():
            engine.interrupt()

    def end(self) -> None:
        """Interrupt all engines."""
        self._over.set()
        for engine in list(self._engines):
            engine.interrupt()


def call(work: Callable[[], T]) -> Future[T]:
    """Call a function in a thread of its own, which does not keep the process from ending."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="load", daemon=True).start()
    return future


def call_within(seconds: float, work: Callable[[Interruption], T]) -> T:
    """Return what a function returns; after `seconds`, interrupt its engines and leave it behind.

    Args:
        seconds: The limit.
        work: The function; it adds the engines that it opens to its argument.

    Raises:
        TimeoutError: The time is over.
    """
    interruption = Interruption()
    called = call(lambda: work(interruption))
    if not wait([called], seconds).done:
        interruption.end()
        wait([called], INTERRUPTED)
        raise TimeoutError
    return called.result()
