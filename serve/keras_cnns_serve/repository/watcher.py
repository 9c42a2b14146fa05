"""Poll the model repository for changes.

Polling works on every system and on every kind of volume, network volumes included, where
notifications of changes do not.
"""

import logging
import threading
from collections.abc import Callable

from keras_cnns_serve.errors import one_line

logger = logging.getLogger(__name__)


class Watcher:
    """Call a function at intervals in a thread of its own, until it is stopped.

    Args:
        look: The function; what it raises is logged and ends nothing.
        seconds: The interval.
    """

    def __init__(self, look: Callable[[], None], seconds: float) -> None:
        self._look = look
        self._seconds = seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, seconds: float | None = None) -> None:
        """End the thread, but wait at most `seconds` for a look that is in progress."""
        self._stopped.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        logged: str | None = None
        while not self._stopped.wait(self._seconds):
            try:
                self._look()
                logged = None
            except Exception as error:  # whatever it is, it may have passed by the next look
                text = one_line(error) or type(error).__name__
                if text != logged:  # once, not at every look
                    logger.warning("the served models stay as they are: %s", text)
                logged = text
