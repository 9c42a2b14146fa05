"""Settings of the process that the command changes and an embedded server leaves alone."""

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

# Seconds that a thread keeps the interpreter while another waits for it. With Python's 5 ms a core
# is idle each time that an engine is done and the event loop is busy.
SWITCH_INTERVAL = 50e-6
# New objects between two searches for garbage in cycles, of which requests leave none. With
# Python's 700 a few dozen requests in flight set one off again and again.
GARBAGE_THRESHOLD = 10_000
OVERTIME = 2.0  # seconds after the grace, more than the transports and the log need to end
# Bytes from which glibc takes memory for a block of its own, and gives it back when it is freed. By
# default the limit grows to 32 MiB, and what was freed below it can stay.
MMAP_THRESHOLD = 2**20
M_MMAP_THRESHOLD = -3  # glibc's number of this setting
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run(main: Callable[[asyncio.Event], Coroutine[Any, Any, None]], grace: float) -> None:
    """Run a server on an event loop of its own, uvloop's where it is installed, until a signal.

    The first SIGINT or SIGTERM sets the event that `main` waits for; later ones are ignored, also
    while the process ends: to stop when asked is a success. What has not ended `grace` seconds
    later, such as a thread that loads a model, ends with the process and the exit status 0. So does
    a daemon thread that is still at work when the interpreter is done.

    Args:
        main: the server, given the event that asks it to stop.
        grace: seconds.
    """
    _return_large_blocks()
    loop = _new_event_loop()
    stop = asyncio.Event()
    end = threading.Timer(grace + OVERTIME, os._exit, [0])
    end.daemon = True

    def stopping(number: int, frame: FrameType | None) -> None:
        if not end.is_alive():
            end.start()
            loop.call_soon_threadsafe(stop.set)
        for each in STOP_SIGNALS:
            signal.signal(each, signal.SIG_IGN)  # Python leaves this as it is to the very end

    atexit.register(_leave_threads, end)  # now, to come after what others register
    before = {each: signal.signal(each, stopping) for each in STOP_SIGNALS}
    try:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(main(stop))
    except BaseException:
        end.cancel()
        atexit.unregister(_leave_threads)
        for each, handler in before.items():
            signal.signal(each, handler)
        raise  # else the timer goes on: the interpreter waits for threads that are no daemons


def _leave_threads(timer: threading.Thread) -> None:
    """End the process now if a thread is at work in an engine.

    When the interpreter is gone, a daemon thread that comes back to it from C++ aborts the process.
    """
    here = (timer, threading.current_thread())
    if any(thread.daemon and thread not in here for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(0)


def _return_large_blocks() -> None:
    """Let what decoding takes go back to the system when it is freed, where libc can."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)


def tune() -> None:
    """Set the interpreter for a server whose models are loaded."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.freeze()  # the objects that exist now stay, so the collector need not search them
    gc.set_threshold(GARBAGE_THRESHOLD)


def open_standard_streams() -> None:
    """Open descriptors 0 to 2 on the null device if the program was started without them.

    Otherwise a socket would get such a number, which uvloop refuses to close.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


def raise_open_files() -> None:
    """Permit as many connections as the system does: the usual limit is 1,024 open files."""
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
