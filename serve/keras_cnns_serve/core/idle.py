"""Return memory to the system while no request needs it."""

import asyncio
import logging
import os
from pathlib import Path

from keras_cnns_serve.repository.memory import give_memory_back

from .dataplane import Dataplane

logger = logging.getLogger(__name__)

SECONDS = 2.0  # interval of the polls
MIN_GROWTH = 2**24  # bytes of growth since the last time from which memory is returned
STATUS = Path("/proc/self/statm")


async def give_memory_back_when_idle(dataplane: Dataplane) -> None:
    """Return memory each time the process has grown and no request holds memory; never return.

    An engine keeps the memory of its largest batch, and the allocator keeps freed small blocks,
    such as objects of parsed JSON. The size of the process is known on Linux only.
    """

    def shrink() -> None:
        for servable in dataplane.served():
            servable.loaded.engine.shrink()
        give_memory_back()

    before = _resident()
    while before:
        await asyncio.sleep(SECONDS)
        if _resident() > before + MIN_GROWTH and not dataplane.budget.used:
            try:
                await asyncio.to_thread(shrink)
            except Exception:  # an engine's; the next attempt may succeed
                logger.warning("memory could not be returned to the system", exc_info=True)
            before = _resident()


def _resident() -> int:
    """Return the resident memory of the process in bytes; 0 if the system does not report it."""
    try:
        pages = int(STATUS.read_text("ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
