"""Poll the model repository for changes.

Polling works on all systems and volumes. Notifications of changes do not work everywhere, for
instance not on network volumes.
"""

import logging
import threading
from collections.abc import Callable

from keras_cnns_serve.errors import one_line

logger = logging.getLogger(__name__)


class Watcher:
    """Call a function at intervals in its own thread, until the watcher is stopped.

    Args:
        poll: the function; its errors are logged and do not end the thread.
        seconds: the interval.
    """

    def __init__(self, poll: Callable[[], None], seconds: float) -> None:
        self._poll = poll
        self._seconds = seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, seconds: float | None = None) -> None:
        """End the thread; wait at most `seconds` for a call in progress."""
        self._stopped.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        logged: str | None = None
        while not self._stopped.wait(self._seconds):
            try:
                self._poll()
                logged = None
            except Exception as error:  # any error may be temporary
                text = one_line(error) or type(error).__name__
                if text != logged:  # report an error once, not at each poll
                    logger.warning(
                        "polling for changes failed, and the served models do not change: %s", text
                    )
                logged = text
