"""Files that are read again when they change, such as rotated secrets."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from keras_cnns_serve.errors import ConfigError

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0  # minimum seconds between two checks of the files

T = TypeVar("T")


class WatchedFiles(Generic[T]):
    """Hold the current content of files, or their last valid content if they become invalid.

    Args:
        paths: the files.
        read: a function that reads and checks all files, and raises ConfigError.

    Raises:
        ConfigError: a file cannot be read, or `read` raises it.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], T]) -> None:
        self._paths = paths
        self._read = read
        self._lock = threading.Lock()
        self._marks = self._read_marks()
        self._content = read()
        self._checked = time.monotonic()

    def current(self) -> T:
        """Return the content; check for changes at most once in `POLL_SECONDS`."""
        if time.monotonic() - self._checked > POLL_SECONDS:
            with self._lock:
                self._checked = time.monotonic()
                try:
                    marks = self._read_marks()
                    if marks != self._marks:
                        self._content = self._read()
                        self._marks = marks
                        logger.info("%s has changed and was read again", self._paths[0])
                except ConfigError as error:  # perhaps some of the files have not been written yet
                    path = self._paths[0]
                    logger.warning("the earlier content of %s stays in use: %s", path, error)
        return self._content

    def _read_marks(self) -> list[tuple[int, int, int]]:
        marks = []
        for path in self._paths:
            try:
                state = path.stat()
            except OSError as error:
                raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
            marks.append((state.st_mtime_ns, state.st_size, state.st_ino))
        return marks
