"""Settings of the process that the command changes; an embedded server does not change them."""

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
# Python's default of 5 ms, a core stays idle for that time if an engine finishes while the event
# loop is busy.
_SWITCH_INTERVAL = 50e-6
# Number of new objects that starts a collection of reference cycles. Requests create no cycles, but
# with Python's default of 700 a few dozen requests in flight start one collection after another.
_GARBAGE_THRESHOLD = 10_000
_OVERTIME = 2.0  # seconds after the grace period in which the transports and the log can end
# glibc maps each block of at least this size separately and unmaps it when it is freed. By
# default this threshold grows to 32 MiB, and smaller freed blocks can stay in the process.
_MMAP_THRESHOLD = 2**20
_M_MMAP_THRESHOLD = -3  # the constant of this name in malloc.h
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run(main: Callable[[asyncio.Event], Coroutine[Any, Any, None]], grace: float) -> None:
    """Run a server until a signal, on a new event loop (uvloop's if it is installed).

    The first SIGINT or SIGTERM sets the event that `main` waits for. Later signals are ignored,
    even while the process ends, so that its exit status is 0. The process ends at most `grace` +
    `_OVERTIME` seconds later, even if a thread, such as one that loads a model, has not ended.
    Daemon threads that still run when the interpreter has finished do not delay the end either.

    Args:
        main: the server; its argument is the event that it waits for.
        grace: seconds for requests in flight.
    """
    return_large_blocks()
    loop = _new_event_loop()
    stop = asyncio.Event()
    end = threading.Timer(grace + _OVERTIME, os._exit, [0])
    end.daemon = True

    def stopping(number: int, frame: FrameType | None) -> None:
        if not end.is_alive():
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
    # The timer still runs: the interpreter waits for threads that are not daemons.


def _leave_threads(timer: threading.Thread) -> None:
    """End the process at once if an engine's thread still runs.

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
    gc.freeze()  # exclude the existing objects, which stay, from collections
    gc.set_threshold(_GARBAGE_THRESHOLD)


def open_standard_streams() -> None:
    """Open descriptors 0 to 2 on the null device if the program was started without them.

    Otherwise a socket would get one of these numbers, and uvloop refuses to close it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


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
