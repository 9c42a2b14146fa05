"""Give memory back to the system while no request needs it."""

import asyncio
import logging
import os
from pathlib import Path

from keras_cnns_serve.repository.memory import give_memory_back

from .dataplane import Dataplane

logger = logging.getLogger(__name__)

SECONDS = 2.0  # between two looks
WORTH_BYTES = 2**24  # more than the last time; less is not worth looking for
STATUS = Path("/proc/self/statm")


async def give_memory_back_when_idle(dataplane: Dataplane) -> None:
    """Give memory back whenever the process has grown and no request holds any, for ever.

    An engine keeps what its largest batch took, and the allocator what was freed in small blocks,
    such as the objects of parsed JSON. Only Linux says how much the process has.
    """

    def give_back() -> None:
        for servable in dataplane.served():
            servable.loaded.engine.shrink()
        give_memory_back()

    before = _resident()
    while before:
        await asyncio.sleep(SECONDS)
        if _resident() > before + WORTH_BYTES and not dataplane.budget.used:
            try:
                await asyncio.to_thread(give_back)
            except Exception:  # of an engine; the next time may succeed
                logger.warning("memory is not given back", exc_info=True)
            before = _resident()


def _resident() -> int:
    """Return the bytes of memory that the process has; 0 where the system does not say."""
    try:
        pages = int(STATUS.read_text("ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
