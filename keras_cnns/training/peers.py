"""Detect that a process of a distributed training was lost, and report which one.

Each process writes a number into the key-value store of JAX's coordinator every two seconds. A
thread of every process reads the numbers of the other processes. The thread ends its process with a
message if a number no longer changes, or if another process has reported a failure. The coordinator
is in the first process. If the first process is lost, JAX aborts the other processes. Each of the
other processes therefore has a small child process, which waits for the end of its parent, and
prints the message if JAX has aborted the parent.
"""

import os
import shutil
import subprocess
import sys
import threading
import time
import traceback
from contextlib import suppress
from typing import Any

RESUME = (
    "Start all processes again with the same commands to resume; the number of processes may change"
)
_BEAT_SECONDS = 2.0
_SILENCE_SECONDS = 20.0  # a process counts as lost if its number has not changed for this time
_NAMING_SECONDS = 30.0  # time for finding the lost process after a connection broke
_STATUS, _INTERRUPTED = 1, 130
_PROGRAM = "keras-cnns"
_BROKEN = ("gloo", "nccl", "connection", "coordination", "unavailable", "socket", "heartbeat")

# The child's program. Standard input ends when the parent ends. If the last line of the input is
# not empty, the parent was aborted: this line is printed, and the directories in the lines before
# it are removed.
_WATCHER = """
import shutil
import sys
lines = sys.stdin.buffer.read().decode().splitlines()
if lines and lines[-1]:
    sys.stderr.write(lines[-1] + "\\n")
    for line in lines[:-1]:
        if line.startswith("/"):
            shutil.rmtree(line, ignore_errors=True)
"""


class Peers:
    """The other processes of a training."""

    def __init__(self, process_id: int, processes: int, watcher: "Watcher") -> None:
        # The key-value store of the coordinator has no public interface in JAX.
        from jax._src.distributed import global_state

        self.client: Any = global_state.client
        self.process_id, self.others = process_id, [p for p in range(processes) if p != process_id]
        self._temporary: str | None = None  # a directory to remove after a failure
        self._watcher = watcher
        self._is_closed = threading.Event()
        self._beat(0)
        threading.Thread(target=self._watch, daemon=True).start()

    def remove_at_the_end(self, directory: str) -> None:
        """Remove a directory when this process ends because of a failure."""
        self._temporary = directory
        self._watcher.also_remove(directory)

    @property
    def is_closed(self) -> bool:
        """Return whether this process has disconnected from the others."""
        return self._is_closed.is_set()

    def close(self) -> None:
        """Wait for the other processes, and disconnect."""
        import jax

        if not self.is_closed:
            self._is_closed.set()
            self._set("done", "1")
            jax.distributed.shutdown()

    def end(self, error: BaseException) -> None:
        """End this process because of an exception, and report which process caused it."""
        if isinstance(error, SystemExit | KeyboardInterrupt):
            self.report("was ended by a signal")
            code = getattr(error, "code", _INTERRUPTED)
            self._leave("", code if isinstance(code, int) else _STATUS)
        import jax

        text = str(error) or type(error).__name__
        is_of_jax = isinstance(error, jax.errors.JaxRuntimeError)
        if is_of_jax and any(word in text.lower() for word in _BROKEN):
            # Meanwhile, `_watch` may find the lost process: it then ends this process with a better
            # message.
            time.sleep(_NAMING_SECONDS)
            self._leave(f"another process is gone: {text.splitlines()[0][:200]}. {RESUME}.")
        self.report(f"has failed: {text.splitlines()[0]}")
        if "--debug" in sys.argv:
            traceback.print_exception(error)
        if not self.process_id:
            # Let the other processes read the reason before the coordinator ends.
            time.sleep(2 * _BEAT_SECONDS)
        self._leave(text)

    def report(self, failure: str) -> None:
        """Report to the other processes why this process ends."""
        with suppress(Exception):  # the coordinator may have ended
            self._set("failure", failure)

    def _leave(self, message: str, status: int = _STATUS) -> None:
        if self._temporary:
            shutil.rmtree(self._temporary, ignore_errors=True)
        self._watcher.leave(message, status)

    def _set(self, key: str, value: str) -> None:
        self.client.key_value_set(f"keras_cnns/{key}/{self.process_id}", value, True)

    def _get(self, key: str, process: int) -> str | None:
        try:
            return str(self.client.key_value_try_get(f"keras_cnns/{key}/{process}"))
        except Exception as error:
            if "NOT_FOUND" in str(error):
                return None
            raise

    def _beat(self, number: int) -> None:
        self._set("beat", str(number))

    def _watch(self) -> None:
        seen: dict[int, tuple[str | None, float]] = {}
        number = 0
        while not self._is_closed.wait(_BEAT_SECONDS):
            number += 1
            try:
                self._beat(number)
                for process in self.others:
                    self._check(process, seen)
            except Exception:
                if not self._is_closed.is_set():
                    self._leave(f"process 0, the coordinator, is gone. {RESUME}.")
                return

    def _check(self, process: int, seen: dict[int, tuple[str | None, float]]) -> None:
        now = time.monotonic()
        if failure := self._get("failure", process):
            self._leave(f"process {process} {failure}. {RESUME}.")
        beat = self._get("beat", process)
        if process not in seen or seen[process][0] != beat:
            seen[process] = beat, now
        elif now - seen[process][1] > _SILENCE_SECONDS and not self._get("done", process):
            self._leave(f"process {process} is gone. {RESUME}.")


class Watcher:
    """A child that prints a message when JAX aborts this process."""

    def __enter__(self) -> "Watcher":
        self._child = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", _WATCHER],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C must reach only the parent
        )
        self._stderr = sys.stderr  # `sys.stderr` may be redirected by a training
        self._message = ""
        return self

    def __exit__(self, *error: object) -> None:
        self._write("")
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait()

    def expect(self, message: str) -> None:
        """Make the child print a one-line message if this process is aborted after this call."""
        self._message = message
        self._write(f"{_PROGRAM}: {message}")

    def also_remove(self, directory: str) -> None:
        """Make the child also remove a directory if this process is aborted after this call."""
        self._write(directory)
        self.expect(self._message)

    def leave(self, message: str, status: int = _STATUS) -> None:
        """Print a message, and end this process immediately."""
        self.__exit__()
        if message:
            print(f"{_PROGRAM}: {message}", file=self._stderr, flush=True)
        sys.stdout.flush()
        os._exit(status)

    def _write(self, line: str) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(f"{line}\n".encode())
        self._child.stdin.flush()
