"""Write what the server logs from a thread of its own.

A pipe that nobody reads blocks its writer. If that were the event loop, every client would wait
for whoever should read the log: lines therefore go through a queue, and the lines that do not fit
into it are dropped and counted.
"""

import logging
import os
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from logging.handlers import QueueHandler, QueueListener
from queue import SimpleQueue
from typing import IO, Any

OURS = "keras_cnns_serve"  # the parent of all our loggers
ACCESS = f"{OURS}.access"  # the logger of the access log, whose messages are whole lines
MAX_BYTES = 4 * 2**20  # of lines that wait to be written
STOP = 1.0  # seconds that the end waits for a stream that takes no more


@contextmanager
def queued(stream: IO[str], level: int = logging.INFO) -> Iterator[None]:
    """Write what is logged to a stream, through a queue, as long as the context is entered.

    The handler is the root logger's. For the command: an application that embeds the server
    configures logging itself.

    Args:
        stream: Where lines are written; directly to its file descriptor, if it has one, so that
            no thread holds the stream's lock.
        level: The lowest level of our own loggers; those of the libraries start at WARNING.
    """
    handler = _BoundedHandler()
    writer = _Writer(handler, stream)
    root, ours = logging.getLogger(), logging.getLogger(OURS)
    before = ours.level
    ours.setLevel(level)
    root.addHandler(handler)
    writer.start()
    try:
        yield
    finally:
        root.removeHandler(handler)
        ours.setLevel(before)
        # stop() waits for the queue to be empty, which a blocked stream may keep for ever.
        stopping = threading.Thread(target=writer.stop, name="end of the log", daemon=True)
        stopping.start()
        stopping.join(STOP)


class _Format(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return record.getMessage() if record.name == ACCESS else super().format(record)


class _BoundedHandler(QueueHandler):
    """Put lines into a queue, and drop them while it is full, until half of it is written."""

    def __init__(self) -> None:
        # The queue itself has no bound: the listener's last item must always fit.
        self._lines: SimpleQueue[Any] = SimpleQueue()
        super().__init__(self._lines)
        self.setFormatter(_Format("%(levelname)s: %(message)s"))
        self._waiting = 0  # bytes
        self._dropped = 0  # lines

    def prepare(self, record: logging.LogRecord) -> bytes:
        """Return the record's line."""
        return f"{self.format(record)}\n".encode(errors="backslashreplace")

    def enqueue(self, record: Any) -> None:
        """Put a line into the queue, or count it as dropped; logging holds the handler's lock."""
        if self._dropped or self._waiting + len(record) > MAX_BYTES:
            self._dropped += 1
        else:
            self._waiting += len(record)
            self._lines.put(record)

    def written(self, line: bytes) -> None:
        """Make room for more lines; after a gap, put the number of dropped lines there."""
        self.acquire()
        try:
            self._waiting -= len(line)
            if self._dropped and self._waiting <= MAX_BYTES // 2:
                gap = f"WARNING: {self._dropped} lines of the log were not read and are dropped\n"
                self._dropped = 0
                self.enqueue(gap.encode())
        finally:
            self.release()


class _Writer(QueueListener):
    """Write the lines of a handler's queue to a stream."""

    def __init__(self, handler: _BoundedHandler, stream: IO[str]) -> None:
        super().__init__(handler.queue)
        self._handler = handler
        self._write = _writing(stream)

    def handle(self, record: Any) -> None:
        """Write a line; a full disk, or whatever else is wrong, costs the line alone."""
        with suppress(Exception):
            self._write(record)
        self._handler.written(record)


def _writing(stream: IO[str]) -> Callable[[bytes], object]:
    try:
        file = stream.fileno()
    except (OSError, AttributeError):  # it is in memory, or closed from the start
        return lambda line: stream.write(line.decode())

    def write(line: bytes) -> None:
        while line:
            try:
                line = line[os.write(file, line) :]
            except BlockingIOError:  # a non-blocking pipe that is full
                select.select([], [file], [])

    return write
