"""Write what the server logs from a thread of its own.

A pipe that nobody reads blocks its writer. If that were the event loop, every client would wait
for whoever should read the log: lines therefore go through a queue, and the lines that do not fit
into it are dropped and counted. Of warnings and errors that are repeated, such as those that a
client can cause at will, a few are written in each interval, and then the number of the others.
"""

import logging
import math
import os
import select
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from logging.handlers import QueueHandler, QueueListener
from queue import Empty, SimpleQueue
from typing import IO, Any

OURS = "keras_cnns_serve"  # the parent of all our loggers
ACCESS = f"{OURS}.access"  # the logger of the access log, whose messages are whole lines
MAX_BYTES = 4 * 2**20  # of lines that wait to be written
MAX_REPEATS = 5  # identical warnings or errors that are written in an interval ...
REPEAT_SECONDS = 60.0  # ... of this length
MAX_KINDS = 1000  # of lines that are counted apart from each other in an interval
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
        handler.report(until=math.inf)
        # stop() waits for the queue to be empty, which a blocked stream may keep for ever.
        stopping = threading.Thread(target=writer.stop, name="end of the log", daemon=True)
        stopping.start()
        stopping.join(STOP)


class _Format(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return record.getMessage() if record.name == ACCESS else super().format(record)


@dataclass
class _Kind:
    """Lines that count as identical, in the interval that the first of them has begun."""

    end: float  # of the interval, on the monotonic clock
    count: int = 0
    last: str = ""  # the last of them that was left out
    client: str | None = None  # who caused it


class _Repeats:
    """Choose the warnings and errors that are written, and count those that are left out."""

    def __init__(self) -> None:
        self._kinds: dict[Hashable, _Kind] = {}  # the interval that ends next is the first

    def admit(self, record: logging.LogRecord) -> bool:
        """Return whether the line of a record is written."""
        if record.levelno < logging.WARNING:
            return True
        key = _identity(record)
        if key not in self._kinds and len(self._kinds) >= MAX_KINDS:
            key = record.levelno, record.name
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = _Kind(time.monotonic() + REPEAT_SECONDS)
        kind.count += 1
        if kind.count <= MAX_REPEATS:
            return True
        kind.last = f"{record.levelname}: {record.getMessage().strip()}"
        kind.client = getattr(record, "client", None)
        return False

    @property
    def next_end(self) -> float | None:
        """Return when the next interval ends; None if there is none."""
        return next((kind.end for kind in self._kinds.values()), None)

    def reports(self, until: float) -> Iterator[str]:
        """End the intervals that are over by then; yield a line where lines were left out."""
        for key, kind in list(self._kinds.items()):
            if kind.end > until:
                break
            del self._kinds[key]
            if kind.last:
                begin = kind.end - REPEAT_SECONDS
                seconds = math.ceil(min(time.monotonic() - begin, REPEAT_SECONDS))
                left_out = kind.count - MAX_REPEATS
                line = f"{kind.last}; {left_out:,} more like this in the last {seconds} s"
                yield line if kind.client is None else f"{line}, the last from {kind.client}"


def _identity(record: logging.LogRecord) -> Hashable:
    """Return what identical lines have in common.

    Our own messages differ if their arguments do, such as a model's name, except where a client
    chooses these. An error differs by its type and the line that raised it.
    """
    ours = record.name.startswith(OURS) and not hasattr(record, "client")
    text = record.getMessage() if ours else str(record.msg)
    error = record.exc_info[1] if record.exc_info else None
    trace = None if error is None else error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    line = None if trace is None else (trace.tb_frame.f_code.co_filename, trace.tb_lineno)
    return record.levelno, record.name, text, type(error), line


class _BoundedHandler(QueueHandler):
    """Put lines into a queue, and drop them while it is full, until half of it is written."""

    def __init__(self) -> None:
        # The queue itself has no bound: the listener's last item must always fit.
        self.lines: SimpleQueue[Any] = SimpleQueue()
        super().__init__(self.lines)
        self.setFormatter(_Format("%(levelname)s: %(message)s"))
        self._waiting = 0  # bytes
        self._dropped = 0  # lines
        self._repeats = _Repeats()

    def emit(self, record: logging.LogRecord) -> None:
        """Put the line of a record into the queue, unless it repeats others too often."""
        try:
            admitted = self._repeats.admit(record)
        except Exception:  # the arguments do not fit the message
            self.handleError(record)
        else:
            if admitted:
                super().emit(record)

    def report(self, until: float | None = None) -> float | None:
        """Report what was left out by then; return the seconds until there may be more."""
        now = time.monotonic()
        with self._locked():
            for line in self._repeats.reports(now if until is None else until):
                self.enqueue(f"{line}\n".encode(errors="backslashreplace"))
            end = self._repeats.next_end
        return None if end is None else max(0.0, end - now)

    def prepare(self, record: logging.LogRecord) -> bytes:
        """Return the record's line."""
        return f"{self.format(record)}\n".encode(errors="backslashreplace")

    def enqueue(self, record: Any) -> None:
        """Put a line into the queue, or count it as dropped; logging holds the handler's lock."""
        if self._dropped or self._waiting + len(record) > MAX_BYTES:
            self._dropped += 1
        else:
            self._waiting += len(record)
            self.lines.put(record)

    def written(self, line: bytes) -> None:
        """Make room for more lines; after a gap, put the number of dropped lines there."""
        with self._locked():
            self._waiting -= len(line)
            if self._dropped and self._waiting <= MAX_BYTES // 2:
                gap = f"WARNING: {self._dropped} lines of the log were not read and are dropped\n"
                self._dropped = 0
                self.enqueue(gap.encode())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.acquire()
        try:
            yield
        finally:
            self.release()


class _Writer(QueueListener):
    """Write the lines of a handler's queue to a stream."""

    def __init__(self, handler: _BoundedHandler, stream: IO[str]) -> None:
        super().__init__(handler.queue)
        self._handler = handler
        self._lines = handler.lines
        self._write = _writing(stream)

    def dequeue(self, block: bool) -> Any:
        """Wait for a line, and report at the end of each interval what was left out of it."""
        while True:
            with suppress(Empty):
                return self._lines.get(block, self._handler.report())

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
