"""Files that are read again when they change, such as secrets that are replaced."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from keras_cnns_serve.errors import ConfigError

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # between two looks at the files

T = TypeVar("T")


class WatchedFiles(Generic[T]):
    """What files contain at the moment; if they become unusable, what they contained before.

    Args:
        paths: The files.
        read: Reads and checks all of them; raises ConfigError.

    Raises:
        ConfigError: A file cannot be read, or `read` raises it.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], T]) -> None:
        self._paths = paths
        self._read = read
        self._lock = threading.Lock()
        self._marks = self._read_marks()
        self._content = read()
        self._looked = time.monotonic()

    def current(self) -> T:
        """Return what the files contain; look at them at most once in `LOOK_SECONDS`."""
        if time.monotonic() - self._looked > LOOK_SECONDS:
            with self._lock:
                self._looked = time.monotonic()
                try:
                    marks = self._read_marks()
                    if marks != self._marks:
                        self._content = self._read()
                        self._marks = marks
                        logger.info("%s is read again", self._paths[0])
                except ConfigError as error:  # of several files the last may not be written yet
                    logger.warning("%s is used as it was: %s", self._paths[0], error)
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
