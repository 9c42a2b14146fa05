"""Connect the processes of a training, notice those that are gone, and share what they begin with.

Each process writes a number into the key-value store of JAX' coordinator every two seconds. A
thread of every process reads the others' numbers, and ends its process with a message if one stands
still, or if another process has reported its failure. The coordinator is in the first process. If
that one is gone, JAX aborts the other processes; a small child of each, which only waits for the
end of its parent, then prints the message.
"""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from keras_cnns.recipes import Recipe, format_recipe
from keras_cnns.runs.names import CHECKPOINTS
from keras_cnns.training.checkpoint import CheckpointError, list_checkpoints, read_checkpoint
from keras_cnns.training.distribution import Distribution, DistributionError

_BEAT_SECONDS = 2.0
_SILENCE_SECONDS = 20.0  # without a beat, after which a process counts as gone
# The time after which JAX itself aborts, should the threads here fail. Its agents send a sign of
# life every half of this time, so that it may abort after half of it.
_AGENT_SECONDS = 58
_NAMING_SECONDS = 30.0  # to wait for the name of the process that has broken a connection
_STATUS, _INTERRUPTED = 1, 130
_PROGRAM = "keras-cnns"
_RESUME = "Start all processes again with the same commands, or another number of them, to resume"
_BROKEN = ("gloo", "nccl", "connection", "coordination", "unavailable", "socket", "heartbeat")

# Runs in the child: standard input ends when the parent does; its last line is what to print then.
_WATCHER = """
import sys
lines = sys.stdin.buffer.read().decode().splitlines()
sys.stderr.write(lines[-1] + "\\n" if lines and lines[-1] else "")
"""


@dataclass(frozen=True)
class Address:
    """The host and the port of the first process."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Return the address of a text `HOST:PORT`.

        Raises:
            DistributionError: it has another form.
        """
        host, _, port = text.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise DistributionError(
                f"--coordinator is {text!r}; it is HOST:PORT of process 0, such as 10.0.0.1:9300"
            )
        return cls(host.strip("[]"), int(port))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@contextmanager
def connected(
    address: Address, process_id: int, processes: int, *, devices: int | None, seconds: int
) -> Iterator["ConnectedDistribution"]:
    """Connect the processes of a training for the time of a block.

    An exception in the block, or another process that is gone, ends this process at once with
    status 1 and a message: JAX' own end would wait for the processes that are gone.

    Args:
        address: where the first process waits for the others.
        process_id: the number of this process, from 0.
        processes: the number of processes.
        devices: the number of devices of each process; by default all that it has.
        seconds: time to wait for the others.

    Raises:
        DistributionError: the processes cannot be connected.
    """
    import jax

    with _Watcher() as watcher:
        _initialize(jax, address, process_id, processes, seconds, watcher)
        gone = f"process 0, the coordinator at {address}," if process_id else "another process"
        watcher.expect(
            f"process {process_id} of {processes} was ended, probably because {gone} is gone. "
            f"{_RESUME}."
        )
        found = _choose_devices(jax, devices, processes)
        leave = watcher.leave
        peers = _Peers(process_id, processes, leave)
        try:
            yield ConnectedDistribution(
                found, process_id=process_id, processes=processes, peers=peers
            )
        except BaseException as error:
            if peers.is_closed:  # nobody waits for this process any more
                raise
            peers.end(error)
        peers.close()


def _initialize(
    jax: Any, address: Address, process_id: int, processes: int, seconds: int, watcher: "_Watcher"
) -> None:
    """Connect to the coordinator, or start it in the first process."""
    problem = (
        f"process {process_id} cannot reach the coordinator at {address}, which process 0 starts, "
        f"within {seconds} s"
    )
    if process_id:
        _wait_for(address, seconds, problem)
    else:
        problem = f"not all of the {processes} processes came to {address} within {seconds} s"
    watcher.expect(problem)  # JAX aborts after that time
    try:
        jax.distributed.initialize(
            str(address),
            processes,
            process_id,
            initialization_timeout=seconds,
            heartbeat_timeout_seconds=_AGENT_SECONDS,
            shutdown_timeout_seconds=_AGENT_SECONDS,
        )
    except Exception as error:
        reason = str(error).splitlines()[0][:200]
        raise DistributionError(f"{problem}: {reason}") from error


def _wait_for(address: Address, seconds: float, problem: str) -> None:
    """Return when a port accepts connections.

    Raises:
        DistributionError: it did not in that time.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((address.host, address.port), timeout=2).close()
        except OSError as error:
            if time.monotonic() > end:
                raise DistributionError(f"{problem}: {error.strerror or error}") from None
            time.sleep(0.2)
        else:
            return


def _choose_devices(jax: Any, devices: int | None, processes: int) -> tuple[Any, ...]:
    """Return the same number of devices of each process."""
    each: dict[int, list[Any]] = {process: [] for process in range(processes)}
    for device in jax.devices():
        each[device.process_index].append(device)
    counts = [len(found) for found in each.values()]
    wanted = devices or counts[0]
    if wanted > min(counts) or (devices is None and len(set(counts)) > 1):
        raise DistributionError(
            f"the processes have {', '.join(map(str, counts))} devices; use --devices with at "
            f"most {min(counts)}, the same number in each process"
        )
    return tuple(device for found in each.values() for device in found[:wanted])


@dataclass(frozen=True, kw_only=True)
class ConnectedDistribution(Distribution):
    """The devices of several connected processes."""

    peers: "_Peers"

    @contextmanager
    def opened(self, run: Path) -> Iterator[Path]:
        """Yield the run directory of this process, which is temporary in all but the first.

        Those others print nothing; exceptions and the messages of lost processes are printed after
        the block.
        """
        if self.is_first:
            yield run
            return
        directory = tempfile.mkdtemp(prefix="keras-cnns-")
        self.peers.temporary = directory
        try:
            with Path(os.devnull).open("w") as null, redirect_stdout(null), redirect_stderr(null):
                yield Path(directory)
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def share(self, run: Path, recipe: Recipe, data_fingerprint: str) -> None:
        """Give the first process's checkpoint to the others, and compare what they train.

        Raises:
            DistributionError: this process has another recipe or other data than the first one.
        """
        text = format_recipe(_without_paths(recipe))
        mine = {
            "recipe": hashlib.sha256(text.encode()).hexdigest(),
            "data": data_fingerprint,
            "checkpoint": "",
        }
        content = b""
        if self.is_first:
            for path in list_checkpoints(run / CHECKPOINTS):
                with suppress(CheckpointError):  # `Resume` reports a damaged one
                    read_checkpoint(path)
                    mine["checkpoint"], content = path.name, path.read_bytes()
                    break
        first = json.loads(_broadcast(json.dumps(mine).encode()))
        for key, wrong in (("recipe", "recipe"), ("data", "data")):
            if first[key] != mine[key]:
                raise DistributionError(
                    f"the {wrong} of process {self.process_id} differ from those of process 0; "
                    "start all processes with the same recipe and the same data"
                )
        content = _broadcast(content)
        if first["checkpoint"] and not self.is_first:
            (run / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
            (run / CHECKPOINTS / first["checkpoint"]).write_bytes(content)

    def finish(self) -> None:
        """Part from the other processes, after the last step; the first process goes on alone."""
        self.peers.close()

    def agree(self, state: Any) -> Any:
        """Return the first process's values of a state of the training, as NumPy arrays."""
        import jax
        from jax.experimental import multihost_utils

        return multihost_utils.broadcast_one_to_all(jax.tree.map(np.asarray, state))


def _without_paths(recipe: Recipe) -> Recipe:
    """Return a recipe without the paths, which may differ between hosts."""
    return replace(
        recipe,
        data=replace(
            recipe.data,
            path="." if recipe.data.path else "",
            corrections="." if recipe.data.corrections else "",
        ),
    )


def _broadcast(content: bytes) -> bytes:
    """Return the first process's bytes."""
    from jax.experimental import multihost_utils

    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    if size == 0:
        return b""
    values = np.zeros(size, np.uint8)
    values[: len(content)] = np.frombuffer(content, np.uint8)[:size]
    return np.asarray(multihost_utils.broadcast_one_to_all(values), np.uint8).tobytes()


class _Peers:
    """The other processes of a training."""

    def __init__(self, process_id: int, processes: int, leave: Any) -> None:
        # The key-value store of the coordinator has no public interface in JAX.
        from jax._src.distributed import global_state

        self.client: Any = global_state.client
        self.process_id, self.others = process_id, [p for p in range(processes) if p != process_id]
        self.temporary: str | None = None  # a directory to remove
        self._exit = leave
        self._is_closed = threading.Event()
        self._beat(0)
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def is_closed(self) -> bool:
        """Whether this process has parted from the others."""
        return self._is_closed.is_set()

    def close(self) -> None:
        """Wait for the other processes, and disconnect."""
        import jax

        if not self.is_closed:
            self._is_closed.set()
            self._set("done", "1")
            jax.distributed.shutdown()

    def end(self, error: BaseException) -> None:
        """End this process because of an exception, and say whose fault it is."""
        if isinstance(error, SystemExit | KeyboardInterrupt):
            self.report("was ended by a signal")
            code = getattr(error, "code", _INTERRUPTED)
            self._leave("", code if isinstance(code, int) else _STATUS)
        text = str(error) or type(error).__name__
        if any(word in text.lower() for word in _BROKEN):
            time.sleep(_NAMING_SECONDS)  # the thread ends the process as soon as it has the name
            self._leave(f"another process is gone: {text.splitlines()[0][:200]}. {_RESUME}.")
        self.report(f"has failed: {text.splitlines()[0]}")
        if "--debug" in sys.argv:
            traceback.print_exception(error)
        self._leave(text)

    def report(self, failure: str) -> None:
        """Let the other processes know why this one ends."""
        with suppress(Exception):  # the coordinator may be gone
            self._set("failure", failure)

    def _leave(self, message: str, status: int = _STATUS) -> None:
        if self.temporary:
            shutil.rmtree(self.temporary, ignore_errors=True)
        self._exit(message, status)

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
                    self._leave(f"process 0, the coordinator, is gone. {_RESUME}.")
                return

    def _check(self, process: int, seen: dict[int, tuple[str | None, float]]) -> None:
        now = time.monotonic()
        if failure := self._get("failure", process):
            self._leave(f"process {process} {failure}. {_RESUME}.")
        beat = self._get("beat", process)
        if process not in seen or seen[process][0] != beat:
            seen[process] = beat, now
        elif now - seen[process][1] > _SILENCE_SECONDS and not self._get("done", process):
            self._leave(f"process {process} is gone. {_RESUME}.")


class _Watcher:
    """A child that prints a message when JAX aborts this process."""

    def __enter__(self) -> "_Watcher":
        self._child = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", _WATCHER],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C is for the parent
        )
        self._stderr = sys.stderr  # which a training may redirect
        return self

    def __exit__(self, *error: object) -> None:
        self._write("")
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait()

    def expect(self, message: str) -> None:
        """Let the child print a message of one line if this process is aborted from now on."""
        self._write(f"{_PROGRAM}: {message}")

    def leave(self, message: str, status: int = _STATUS) -> None:
        """Print a message, and end this process at once."""
        self.__exit__()
        if message:
            print(f"{_PROGRAM}: {message}", file=self._stderr, flush=True)
        sys.stdout.flush()
        os._exit(status)

    def _write(self, line: str) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(f"{line}\n".encode())
        self._child.stdin.flush()
