"""Use the time without requests: return memory to the system, and measure the formats."""

import asyncio
import logging
import os
from pathlib import Path

from keras_cnns_serve.engines.trial import call
from keras_cnns_serve.repository.memory import give_memory_back

from .dataplane import Dataplane

logger = logging.getLogger(__name__)

SECONDS = 2.0  # interval of the polls
MIN_GROWTH = 2**24  # bytes by which the process must grow before memory is returned again
_QUIET_POLLS = 3  # polls without a request before the formats of a version are measured
# Number of polls before the next attempt, after other work on the machine prevented a measurement.
_RETRY_POLLS = 30
STATUS = Path("/proc/self/statm")


async def give_memory_back_when_idle(dataplane: Dataplane) -> None:
    """Return freed memory when the process has grown and no request holds memory; run forever.

    An engine keeps the memory of its largest batch, and the allocator keeps freed small blocks,
    such as objects of parsed JSON. Outside Linux, the size of the process is unknown, and the
    function returns immediately.
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
            except Exception:  # raised by an engine; the next attempt may succeed
                logger.warning("memory could not be returned to the system", exc_info=True)
            before = _resident()


async def measure_formats_when_idle(dataplane: Dataplane) -> None:
    """Switch each version to the format that is fastest on this machine; run forever.

    One version is measured at a time, and only after a while in which no request held memory.
    """
    quiet = 0
    while True:
        await asyncio.sleep(SECONDS)
        quiet = 0 if dataplane.budget.used else quiet + 1
        if quiet < _QUIET_POLLS:
            continue
        servable = next((s for s in dataplane.served() if not s.formats_measured), None)
        if servable is None:
            continue
        # Measure in a thread that does not delay the end of the process.
        try:
            await asyncio.wrap_future(call(servable.measure_formats))
        except Exception:  # raised by an engine; the format in use still works
            logger.warning(
                "%s: the speed of its formats cannot be measured; the format in use stays",
                servable.source.name,
                exc_info=True,
            )
            servable.formats_measured = True
        quiet = 0 if servable.formats_measured else _QUIET_POLLS - _RETRY_POLLS


def _resident() -> int:
    """Return the resident memory of the process in bytes; 0 if the system does not report it."""
    try:
        pages = int(STATUS.read_text("ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
