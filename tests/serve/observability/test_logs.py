import io
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from keras_cnns_serve.observability import logs
from keras_cnns_serve.observability.access_log import AccessLog

LINES = 5000


class Pipe:
    """A pipe that is full, and that nobody reads before `read` is called."""

    def __init__(self, seconds: float = 0) -> None:
        """`seconds` is the time between two reads."""
        self._seconds = seconds
        self._read, write = os.pipe()
        self.stream = os.fdopen(write, "w")
        os.set_blocking(write, False)
        self._filling = 0
        while True:
            try:
                self._filling += os.write(write, b" " * 4096)
            except BlockingIOError:
                break
        os.set_blocking(write, True)
        self._text = b""
        self._reader = threading.Thread(target=self._run)

    def read(self) -> None:
        """Start to read."""
        self._reader.start()

    def wait_for(self, text: bytes) -> None:
        """Wait until this has been read."""
        end = time.monotonic() + 20
        while text not in self._text:
            assert time.monotonic() < end
            time.sleep(0.01)

    def lines(self) -> list[str]:
        """Close the pipe for writing, and return the lines that were read from it."""
        self.stream.close()
        self._reader.join(20)
        return self._text[self._filling :].decode().splitlines()

    def _run(self) -> None:
        with os.fdopen(self._read, "rb") as file:
            while piece := file.read1(4096):
                self._text += piece
                time.sleep(self._seconds)


@contextmanager
def blocked(seconds: float = 0) -> Iterator[Pipe]:
    pipe = Pipe(seconds)
    with logs.queued(pipe.stream):
        yield pipe


def test_a_pipe_that_nobody_reads_costs_no_time_and_no_line() -> None:
    log = AccessLog()
    with blocked() as pipe:
        started = time.monotonic()
        for number in range(LINES):
            log.log_grpc(f"/a.Service/Method{number}", "127.0.0.1", "OK", 0.002)
        assert time.monotonic() - started < 20
        logging.getLogger("a.library").warning("it is %s", "warm")
        pipe.read()
    *lines, last = pipe.lines()
    # A model of an earlier test may be unloaded meanwhile, with a line that is not JSON.
    paths = [json.loads(line)["path"] for line in lines if line.startswith("{")]
    assert paths == [f"/a.Service/Method{number}" for number in range(LINES)]
    assert last == "WARNING: it is warm"


def test_lines_that_do_not_fit_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_BYTES", 20_000)
    logger = logging.getLogger("keras_cnns_serve.test")
    with blocked() as pipe:
        for number in range(LINES):
            logger.info("number %d", number)
        pipe.read()
        pipe.wait_for(b"not read\n")
        logger.info("there is room")
    *kept, gap, last = pipe.lines()
    assert 500 < len(kept) < LINES
    assert kept == [f"INFO: number {number}" for number in range(len(kept))]
    dropped = LINES - len(kept)
    assert gap == f"WARNING: {dropped} lines were dropped, because the log was not read"
    assert last == "INFO: there is room"


def test_the_number_of_dropped_lines_is_the_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_BYTES", 20_000)
    monkeypatch.setattr(logs, "_STOP_SECONDS", 60)
    monkeypatch.setattr(logs, "_MAX_STOP_SECONDS", 60)
    with blocked(seconds=0.01) as pipe:
        for number in range(LINES):
            logging.getLogger("keras_cnns_serve.test").info("number %d", number)
        pipe.read()
    *kept, gap = pipe.lines()
    dropped = LINES - len(kept)
    assert dropped > 0
    assert gap == f"WARNING: {dropped} lines were dropped, because the log was not read"


def test_the_end_does_not_wait_for_a_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_MAX_STOP_SECONDS", 60)
    with blocked() as pipe:
        for number in range(100):
            logging.getLogger("keras_cnns_serve.test").info("number %d", number)
        started = time.monotonic()
    assert time.monotonic() - started < 20
    pipe.read()  # or the thread that writes would stay
    pipe.wait_for(b"number 99\n")
    assert len(pipe.lines()) == 100


def test_the_end_waits_for_a_slow_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_STOP_SECONDS", 0.5)
    monkeypatch.setattr(logs, "_MAX_STOP_SECONDS", 60)
    with blocked(seconds=0.01) as pipe:
        for number in range(LINES):
            logging.getLogger("keras_cnns_serve.test").info("number %d %s", number, " " * 80)
        pipe.read()
        started = time.monotonic()
    assert time.monotonic() - started > 0.8  # more than the end waits for a blocked stream
    assert [int(line.split()[2]) for line in pipe.lines()] == list(range(LINES))


def test_a_process_ends_although_nobody_reads_its_log() -> None:
    program = (
        "import sys\n"
        "from keras_cnns_serve.observability import access_log, logs\n"
        "log = access_log.AccessLog()\n"
        "with logs.queued(sys.stderr):\n"
        f"    for _ in range({LINES}):\n"
        "        log.log_grpc('/a.Service/Method', '127.0.0.1', 'OK', 0.002)\n"
        "    print('here')\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout
            assert process.stdout.read() == b"here\n"
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_a_full_disk_costs_lines_only() -> None:
    with open("/dev/full", "w") as full, logs.queued(full):  # noqa: PTH123
        AccessLog().log_grpc("/a.Service/Method", "127.0.0.1", "OK", 0.002)
        AccessLog().log_grpc("/a.Service/Method", "127.0.0.1", "OK", 0.002)


def test_levels_and_tracebacks(monkeypatch: pytest.MonkeyPatch) -> None:
    # pytest's own handlers cannot send a surrogate from one process to another.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    stream = io.StringIO()
    ours, others = logging.getLogger("keras_cnns_serve.test"), logging.getLogger("a.library")
    before = [logging.getLogger().handlers[:], logging.getLogger("keras_cnns_serve").level]
    with logs.queued(stream):
        ours.debug("too little")
        others.info("too little")
        ours.info("mine: \ud800")
        try:
            raise ValueError("broken")
        except ValueError:
            others.exception("it failed")
    ours.warning("too late")
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["INFO: mine: \\ud800", "ERROR: it failed"]
    assert lines[2] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: broken"
    after = [logging.getLogger().handlers, logging.getLogger("keras_cnns_serve").level]
    assert after == before


def written(log: Callable[[logging.Logger], None]) -> list[str]:
    """Return the lines that are written when the function logs."""
    stream = io.StringIO()
    with logs.queued(stream):
        log(logging.getLogger("keras_cnns_serve.test"))
    return stream.getvalue().splitlines()


def refuse(logger: logging.Logger, count: int) -> None:
    for number in range(count):
        client = f"203.0.113.{number % 10}"
        logger.warning("%s sent %d", client, number, extra={"client": client})


def test_a_line_that_clients_repeat_is_written_a_few_times_and_counted() -> None:
    lines = written(lambda logger: refuse(logger, 1239))
    assert lines[:5] == [f"WARNING: 203.0.113.{number} sent {number}" for number in range(5)]
    assert lines[5:] == [
        "WARNING: 203.0.113.8 sent 1238; 1,234 more like this in the last 1 s, "
        "the last from 203.0.113.8"
    ]


def test_repeated_lines_are_reported_when_nothing_else_is_logged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logs, "REPEAT_SECONDS", 0.2)
    stream = io.StringIO()
    with logs.queued(stream):
        for number in (1, 2):  # each interval has its lines and its report
            refuse(logging.getLogger("keras_cnns_serve.test"), 7)
            end = time.monotonic() + 20
            while stream.getvalue().count("; 2 more like this") < number:
                assert time.monotonic() < end
                time.sleep(0.01)
    assert stream.getvalue().count("\n") == 12


def test_only_warnings_that_are_identical_are_left_out() -> None:
    def log(logger: logging.Logger) -> None:
        library = logging.getLogger("a.library")
        for number in range(20):
            logger.info("%d loads", number)
            logger.warning("grey/%d is refused", number)
            logger.error("it is broken")
            library.warning("no such header: %d", number)

    lines = written(log)
    assert [line for line in lines if "loads" in line] == [f"INFO: {n} loads" for n in range(20)]
    assert len([line for line in lines if "is refused" in line]) == 20
    assert lines.count("ERROR: it is broken") == 5
    assert "ERROR: it is broken; 15 more like this in the last 1 s" in lines
    assert len([line for line in lines if line.startswith("WARNING: no such header")]) == 6


def test_a_traceback_is_repeated_as_seldom_as_its_line_and_hides_no_other() -> None:
    def log(logger: logging.Logger) -> None:
        for number in range(20):
            try:
                if number == 19:
                    raise OSError("another")
                raise ValueError(number)
            except (OSError, ValueError) as error:
                logger.error("a request failed", exc_info=error)

    lines = written(log)
    assert [line for line in lines if line.startswith("ValueError: ")] == [
        f"ValueError: {number}" for number in range(5)
    ]
    assert "OSError: another" in lines
    assert lines[-1] == "ERROR: a request failed; 14 more like this in the last 1 s"


def test_lines_of_more_kinds_than_are_counted_are_left_out_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logs, "MAX_KINDS", 10)

    def log(logger: logging.Logger) -> None:
        for number in range(1000):
            logger.warning("grey/%d is refused", number)

    lines = written(log)
    assert len(lines) == 10 + 5 + 1
    assert lines[-1].startswith("WARNING: grey/999 is refused; 985 more like this in the last ")


def test_a_line_that_cannot_be_formatted_costs_no_other(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's would raise the error

    def log(logger: logging.Logger) -> None:
        logger.warning("%d", "x")
        logger.warning("fine")

    assert written(log) == ["WARNING: fine"]
    assert "TypeError: %d format" in capsys.readouterr().err
