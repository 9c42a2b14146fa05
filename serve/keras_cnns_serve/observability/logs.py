"""Write the log from a separate thread.

If nobody reads a pipe, its writer blocks; if the event loop wrote the log, all clients would wait.
Lines therefore go through a queue, and lines that do not fit into the queue are dropped and
counted. Repeated warnings and errors are limited, because clients can cause some of them at will.
In each interval, a few of them are written, followed by the number of those that were suppressed.
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

_PACKAGE = "keras_cnns_serve"  # the parent of our loggers
ACCESS = f"{_PACKAGE}.access"  # the logger of the access log, whose messages are whole lines
MAX_BYTES = 4 * 2**20  # maximum size of the queue
_MAX_REPEATS = 5  # maximum number of identical warnings or errors that are written in each interval
REPEAT_SECONDS = 60.0  # length of the interval
MAX_KINDS = 1000  # maximum number of different lines that are counted separately
_STOP_SECONDS = 1.0  # maximum seconds to wait at the end for a stream that is not read
# Maximum seconds to wait at the end for a stream that is read slowly; `process.run` may end the
# process earlier.
_MAX_STOP_SECONDS = 10.0


@contextmanager
def queued(stream: IO[str], level: int = logging.INFO) -> Iterator[None]:
    """Write the log to a stream, through a queue, while the context is entered.

    The handler is added to the root logger. The command line uses this function; an application
    that embeds the server configures logging itself.

    Args:
        stream: the stream. If it has a file descriptor, lines are written to the descriptor, so
            that no thread holds the stream's lock.
        level: the level of the server's loggers; other libraries log only warnings and errors.
    """
    handler = _BoundedHandler()
    writer = _Writer(handler, stream)
    root, package = logging.getLogger(), logging.getLogger(_PACKAGE)
    before = package.level
    package.setLevel(level)
    root.addHandler(handler)
    writer.start()
    try:
        yield
    finally:
        root.removeHandler(handler)
        package.setLevel(before)
        handler.report(until=math.inf)
        # stop() waits until the queue is empty, which never happens while the stream is blocked.
        stopping = threading.Thread(target=writer.stop, name="end of the log", daemon=True)
        stopping.start()
        end = time.monotonic() + _MAX_STOP_SECONDS
        waiting = math.inf
        while stopping.is_alive() and handler.waiting < waiting:  # while lines are being written
            waiting = handler.waiting
            stopping.join(max(0, min(_STOP_SECONDS, end - time.monotonic())))


class _Format(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return record.getMessage() if record.name == ACCESS else super().format(record)


@dataclass
class _Kind:
    """Lines that count as identical, in an interval that begins with the first of them."""

    end: float  # time.monotonic() at the end of the interval
    count: int = 0
    last: str = ""  # the last suppressed line
    client: str | None = None  # the client that caused the line


class _Repeats:
    """Choose which warnings and errors are written, and count the suppressed ones."""

    def __init__(self) -> None:
        self._kinds: dict[Hashable, _Kind] = {}  # ordered by the end of the interval

    def admit(self, record: logging.LogRecord) -> bool:
        """Return whether to write the line of a record."""
        if record.levelno < logging.WARNING:
            return True
        key = _identity(record)
        if key not in self._kinds and len(self._kinds) >= MAX_KINDS:
            key = record.levelno, record.name
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = _Kind(time.monotonic() + REPEAT_SECONDS)
        kind.count += 1
        if kind.count <= _MAX_REPEATS:
            return True
        kind.last = f"{record.levelname}: {record.getMessage().strip()}"
        kind.client = getattr(record, "client", None)
        return False

    @property
    def next_end(self) -> float | None:
        """Return the time at which the next interval ends; None if there is no interval."""
        return next((kind.end for kind in self._kinds.values()), None)

    def reports(self, until: float) -> Iterator[str]:
        """End the intervals that are over; yield a line for each interval with suppressed lines.

        Args:
            until: intervals that end by this time are over.
        """
        for key, kind in list(self._kinds.items()):
            if kind.end > until:
                break
            del self._kinds[key]
            if kind.last:
                begin = kind.end - REPEAT_SECONDS
                seconds = math.ceil(min(time.monotonic() - begin, REPEAT_SECONDS))
                suppressed = kind.count - _MAX_REPEATS
                line = f"{kind.last}; {suppressed:,} more like this in the last {seconds} s"
                yield line if kind.client is None else f"{line}, the last from {kind.client}"


def _identity(record: logging.LogRecord) -> Hashable:
    """Return a key that is the same for lines that count as identical.

    Two messages of the server with different arguments, such as a model's name, are different
    lines, unless a client chooses the arguments. Errors are identified by their type and the code
    line that raised them.
    """
    by_text = record.name.startswith(_PACKAGE) and not hasattr(record, "client")
    text = record.getMessage() if by_text else str(record.msg)
    error = record.exc_info[1] if record.exc_info else None
    trace = None if error is None else error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    line = None if trace is None else (trace.tb_frame.f_code.co_filename, trace.tb_lineno)
    return record.levelno, record.name, text, type(error), line


class _BoundedHandler(QueueHandler):
    """Put lines into a queue; when the queue is full, drop lines until half of it is written."""

    def __init__(self) -> None:
        # The queue itself is unbounded, because the sentinel that ends the listener must always
        # fit.
        self.lines: SimpleQueue[Any] = SimpleQueue()
        super().__init__(self.lines)
        self.setFormatter(_Format("%(levelname)s: %(message)s"))
        self.waiting = 0  # number of bytes in the queue
        self._dropped = 0  # number of dropped lines
        self._repeats = _Repeats()

    def emit(self, record: logging.LogRecord) -> None:
        """Put the line of a record into the queue, unless it is suppressed as a repetition."""
        try:
            admitted = self._repeats.admit(record)
        except Exception:  # raised if the arguments do not fit the message
            self.handleError(record)
        else:
            if admitted:
                super().emit(record)

    def report(self, until: float | None = None) -> float | None:
        """Write reports of suppressed lines; return the seconds until the next report."""
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
        """Put a line into the queue, or count it as dropped; callers hold the handler's lock."""
        if self._dropped or self.waiting + len(record) > MAX_BYTES:
            self._dropped += 1
        else:
            self.waiting += len(record)
            self.lines.put(record)

    def written(self, line: bytes) -> None:
        """Free the space of a written line; if lines were dropped, log how many."""
        with self._locked():
            self.waiting -= len(line)
            if self._dropped and self.waiting <= MAX_BYTES // 2:
                gap = f"WARNING: {self._dropped} lines were dropped, because the log was not read\n"
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
        """Wait for a line; at the end of each interval, report its suppressed lines."""
        while True:
            with suppress(Empty):
                return self._lines.get(block, self._handler.report())

    def handle(self, record: Any) -> None:
        """Write a line; after an error, such as a full disk, only this line is lost."""
        with suppress(Exception):
            self._write(record)
        self._handler.written(record)

    def stop(self) -> None:
        """Write the remaining lines; the count of dropped lines may follow the sentinel."""
        super().stop()
        with suppress(Empty):
            while True:
                self.handle(self._lines.get_nowait())


def _writing(stream: IO[str]) -> Callable[[bytes], object]:
    try:
        file = stream.fileno()
    except (OSError, AttributeError):  # the stream is in memory or closed
        return lambda line: stream.write(line.decode())

    def write(line: bytes) -> None:
        while line:
            try:
                line = line[os.write(file, line) :]
            except BlockingIOError:  # a non-blocking pipe is full
                select.select([], [file], [])

    return write
