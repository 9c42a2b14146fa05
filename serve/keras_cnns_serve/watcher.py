"""Looks after the model repository: at intervals, and at once where the system tells of changes."""

import contextlib
import ctypes
import logging
import os
import select
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

logger = logging.getLogger(__name__)

SETTLE = 0.2  # seconds after a change before looking: a version comes with many changes
IN_NONBLOCK = 0o4000
IN_CLOEXEC = 0o2000000
IN_EVENTS = 0x8 | 0x40 | 0x80 | 0x100 | 0x200  # CLOSE_WRITE, MOVED_FROM, MOVED_TO, CREATE, DELETE


class Watcher:
    """Calls `look` again and again in a thread of its own, until it is stopped.

    Args:
        look: what to do.
        directories: gives the directories whose changes are told at once.
        seconds: the interval otherwise.
    """

    def __init__(
        self, look: Callable[[], None], directories: Callable[[], Iterable[Path]], seconds: float
    ) -> None:
        self._look = look
        self._directories = directories
        self._seconds = seconds
        self._said = ""
        self._wake, self._waker = os.pipe()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def start(self) -> None:
        """Begins to watch."""
        self._thread.start()

    def stop(self, seconds: float | None = None) -> None:
        """Ends the thread; a look that takes longer than `seconds` more is left to itself."""
        self._stopped = True
        os.write(self._waker, b"x")
        self._thread.join(seconds)
        if self._thread.is_alive():
            return
        os.close(self._wake)
        os.close(self._waker)

    def _run(self) -> None:
        with Changes() as changes:
            while not self._stopped:
                found = self._try(lambda: changes.watch(self._directories()))
                if changes.wait(self._seconds, self._wake) and not self._stopped:
                    select.select([self._wake], [], [], SETTLE)
                    changes.forget()
                if not self._stopped and self._try(self._look) and found:
                    self._said = ""

    def _try(self, do: Callable[[], None]) -> bool:
        try:
            do()
        except Exception as error:  # whatever it is, the next look may find it gone
            if str(error) != self._said:  # once, not at every look
                logger.warning("what is served does not change: %s", error)
            self._said = str(error)
            return False
        return True


class Changes:
    """Linux's inotify; elsewhere nothing is told, and waiting is only waiting."""

    def __init__(self) -> None:
        self._add: Callable[[int, bytes, int], int] | None = None
        self._file = -1
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None, use_errno=True)
            self._file = libc.inotify_init1(IN_NONBLOCK | IN_CLOEXEC)
            self._add = libc.inotify_add_watch

    def __enter__(self) -> "Changes":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file >= 0:
            os.close(self._file)

    def watch(self, directories: Iterable[Path]) -> None:
        """Watches these directories too; to name one again does no harm, and finds a new one."""
        if self._file >= 0 and self._add is not None:
            for directory in directories:
                self._add(self._file, os.fsencode(directory), IN_EVENTS)

    def wait(self, seconds: float, wake: int) -> bool:
        """Waits for a change, the time, or a byte in the pipe `wake`; whether it was a change."""
        files = [wake] + ([self._file] if self._file >= 0 else [])
        return self._file in select.select(files, [], [], seconds)[0]

    def forget(self) -> None:
        """Reads away what was told."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._file, 65536):
                pass
