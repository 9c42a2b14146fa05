"""The server in a process of its own, with little memory, watched from outside."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).with_name("keras-cnns-serve")
ADDRESS_SPACE = 3 * 2**30
BUDGET = 256_000_000
START_SECONDS = 60
STOP_SECONDS = 30
SAMPLE_SECONDS = 0.05
OPTIONS = ("--memory-budget", "256MB", "--admin", "--load-timeout", "5", "--port", "0")


class Server:
    """A running server.

    Args:
        models: its model repository.
        log: a file, or a device, for what it writes to stderr.
        limits: further resource limits, by the number of the resource.
        options: of its command line.
    """

    def __init__(
        self,
        models: Path,
        log: Path,
        limits: dict[int, int] | None = None,
        options: tuple[str, ...] = OPTIONS,
    ) -> None:
        every = {resource.RLIMIT_AS: ADDRESS_SPACE} | (limits or {})
        self.models, self.log = models, log
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [COMMAND, str(models), *options],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        for which, value in every.items():
            resource.prlimit(self.process.pid, which, (value, value))
        self.peak = 0  # bytes of resident memory
        printed = self._printed_lines()
        self.http_port = int(printed["serving on "].rpartition(":")[2])
        self.grpc_port = int(printed["gRPC on "].rpartition(":")[2])
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()

    def _printed_lines(self) -> dict[str, str]:
        """Wait until the server is ready, and return its addresses."""
        assert self.process.stdout
        killer = threading.Timer(START_SECONDS, self.process.kill)
        killer.start()
        printed = {}
        for line in self.process.stdout:
            for start in ("serving on ", "gRPC on "):
                if line.startswith(start):
                    printed[start] = line.removeprefix(start).strip()
            if line.startswith("try: "):
                killer.cancel()
                return printed
        killer.cancel()
        raise AssertionError(f"the server never was ready: {self.log_tail()}")

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def answers(self) -> bool:
        """Return whether a new connection is answered within a second."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/readyz", timeout=1):
                return True
        except OSError:
            return False

    def resident(self) -> int:
        """Return the bytes of memory that the process has now; 0 when it has ended."""
        return self._status("VmRSS:")

    def log_tail(self, size: int = 2000) -> str:
        """Return the end of what the server logged."""
        if not self.log.is_file():
            return ""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - size))
            return file.read().decode(errors="replace")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int | None:
        """Send a signal and return the exit status, or None if the server does not end."""
        try:
            if self.alive:
                self.process.send_signal(number)
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return None
        finally:
            self.process.kill()
            self.process.wait()
            self._sampler.join()
            assert self.process.stdout
            self.process.stdout.close()

    def _sample(self) -> None:
        while self.alive:
            self.peak = max(self.peak, self._status("VmHWM:"))  # the kernel keeps the maximum
            time.sleep(SAMPLE_SECONDS)

    def _status(self, name: str) -> int:
        try:
            lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        except OSError:
            return 0
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)


@contextmanager
def running(
    models: Path,
    log: Path,
    limits: dict[int, int] | None = None,
    options: tuple[str, ...] = OPTIONS,
) -> Iterator[Server]:
    """Run a server, and kill it at the end if the test has not stopped it."""
    server = Server(models, log, limits, options)
    try:
        yield server
    finally:
        server.stop(signal.SIGKILL)


def seconds(full: float) -> float:
    """Return the duration of a scenario: SOAK_SECONDS shortens all of them in proportion to 10."""
    return full * float(os.environ.get("SOAK_SECONDS", "10")) / 10


def wait_for(condition: Callable[[], bool], limit: float) -> float | None:
    """Wait until a condition is true, and return after how many seconds it was; or None."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > limit:
            return None
        time.sleep(SAMPLE_SECONDS)
    return time.monotonic() - start
