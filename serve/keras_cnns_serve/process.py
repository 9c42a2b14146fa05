"""Settings of the process; the command line changes them, and an embedded server does not."""

import asyncio
import atexit
import contextlib
import ctypes
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

# Seconds after which a thread must release the interpreter's lock to a waiting thread. With
# Python's default of 5 ms, an engine's thread that finishes a run while the event loop is busy
# would wait 5 ms for the lock, and its core would be idle.
_SWITCH_INTERVAL = 50e-6
# Number of new objects after which Python searches for reference cycles. Requests create no cycles.
# With the default of 700 objects (Python 3.11), a few dozen requests in flight would start one
# search after another.
_GARBAGE_THRESHOLD = 10_000
_OVERTIME = 2.0  # seconds for the transports and the log to end after the grace period
# glibc allocates each block of at least this many bytes by a separate mmap, and returns it to the
# system when it is freed. Smaller blocks can stay in the process. By default, glibc raises this
# threshold up to 32 MiB.
_MMAP_THRESHOLD = 2**20
_M_MMAP_THRESHOLD = -3  # the constant M_MMAP_THRESHOLD in malloc.h
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run(main: Callable[[asyncio.Event], Coroutine[Any, Any, None]], grace: float) -> None:
    """Run a server until a signal, on a new event loop (uvloop's if it is installed).

    The first SIGINT or SIGTERM sets the event that `main` waits for. Later signals are ignored,
    even while the process ends, so that its exit status is 0. The process ends at most `grace` +
    `_OVERTIME` seconds after the first signal, even if a thread still runs, for example one that
    loads a model. Daemon threads that run after the interpreter has finished do not delay the end
    either.

    Args:
        main: the server; its argument is the event that it waits for.
        grace: seconds for requests in flight.
    """
    return_large_blocks()
    loop = _new_event_loop()
    stop = asyncio.Event()
    first = threading.Lock()  # held from the first signal on
    end = threading.Timer(grace + _OVERTIME, os._exit, [0])
    end.daemon = True

    def stopping(number: int, frame: FrameType | None) -> None:
        # A second signal can interrupt this handler anywhere, even while the timer starts.
        if first.acquire(blocking=False):
            end.start()
            loop.call_soon_threadsafe(stop.set)
        for each in _STOP_SIGNALS:
            signal.signal(each, signal.SIG_IGN)  # Python keeps SIG_IGN until the process ends

    atexit.register(_leave_threads, end)  # registered first, called last
    before = {each: signal.signal(each, stopping) for each in _STOP_SIGNALS}
    try:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(main(stop))
    except BaseException:
        end.cancel()
        atexit.unregister(_leave_threads)
        for each, handler in before.items():
            signal.signal(each, handler)
        raise
    # The timer continues, because the interpreter now waits for threads that are not daemons.


def _leave_threads(timer: threading.Thread) -> None:
    """End the process immediately if an engine's thread still runs.

    A daemon thread that returns from C++ after the interpreter has ended would abort the process.
    """
    here = (timer, threading.current_thread())
    if any(thread.daemon and thread not in here for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(0)


def return_large_blocks() -> None:
    """Make glibc return large blocks, such as decoded images, to the system when they are freed."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)


def tune() -> None:
    """Tune the interpreter after the models are loaded."""
    sys.setswitchinterval(_SWITCH_INTERVAL)
    gc.freeze()  # later collections ignore the present objects, which live as long as the process
    gc.set_threshold(_GARBAGE_THRESHOLD)


def open_standard_streams() -> None:
    """Open descriptors 0 to 2 on the null device if the program was started without them.

    Otherwise, a socket could get one of these descriptors, and uvloop refuses to close them.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # opens the lowest free number


def raise_open_files() -> None:
    """Raise the soft limit of open files, usually 1,024, to the hard limit."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
