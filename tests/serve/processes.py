"""The real server, in a process of its own."""

import contextlib
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from queue import Queue
from typing import IO

import httpx

from tests.serve.conftest import grey

CLASSIFY = "/v1/models/grey:classify-image"
IMAGE = grey(130)


class Process:
    """A running server, and the lines that it printed until it was ready."""

    def __init__(self, *arguments: str, python: tuple[str, ...] = ()) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, *python, "-m", "keras_cnns_serve.cli", *arguments, "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._popen.stdout
        assert self._popen.stderr
        # Both pipes are read all the time, or a full one would block the server.
        self.errors: list[str] = []
        printed: Queue[str] = Queue()
        self._readers = [
            threading.Thread(target=_drain, args=(self._popen.stdout, printed.put)),
            threading.Thread(target=_drain, args=(self._popen.stderr, self.errors.append)),
        ]
        for reader in self._readers:
            reader.start()
        self.lines: list[str] = []
        try:
            while not self.lines or not self.lines[-1].startswith("try: "):
                self.lines.append(printed.get(timeout=30))
        except BaseException:
            self._popen.kill()
            self.stop()
            raise AssertionError(f"never ready: {self.lines}, {self.errors}") from None
        self.url = self.lines[-2].removeprefix("serving on ")
        self.grpc = self.lines[-3].removeprefix("gRPC on ")
        self.port = int(self.url.rpartition(":")[2])
        self.http = httpx.Client(base_url=self.url)

    @property
    def warnings(self) -> list[str]:
        """The lines that it logged, except those about loading and unloading."""
        return [line for line in self.errors if not line.startswith("INFO: ")]

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def send_signal(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Sends the signal and returns the exit status; 0 is a success."""
        self.send_signal(number)
        try:
            return self._popen.wait(timeout=30)
        finally:
            self._popen.kill()
            for reader in self._readers:
                reader.join()

    def classify(self, content: bytes = IMAGE) -> str:
        """The likeliest label."""
        response = self.http.post(CLASSIFY, content=content)
        return str(response.json()["predictions"][0]["labels"][0]["label"])

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)


def _drain(pipe: IO[str], keep: Callable[[str], object]) -> None:
    with pipe:
        for line in pipe:
            keep(line.removesuffix("\n"))


@contextlib.contextmanager
def running(*arguments: str, python: tuple[str, ...] = ()) -> Iterator[Process]:
    process = Process(*arguments, python=python)
    try:
        yield process
    finally:
        process.http.close()
        assert process.stop() == 0
