"""Connect the processes of a training, and share their initial state."""

import hashlib
import json
import os
import shutil
import socket
import tempfile
import time
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
from keras_cnns.training.peers import RESUME, Peers, Watcher

# JAX itself aborts if another process sends no heartbeat for this time. This matters only if the
# threads of `peers` fail. The interval of the heartbeats is half of this time, so JAX may abort as
# early as 29 s after a process was lost.
_AGENT_SECONDS = 58


@dataclass(frozen=True)
class Address:
    """The host and the port of the first process."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Return the address in a text of the form `HOST:PORT`.

        Raises:
            DistributionError: the text does not have this form.
        """
        host, _, port = text.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise DistributionError(
                f"--coordinator is {text!r}; give HOST:PORT of process 0, such as 10.0.0.1:9300"
            )
        return cls(host.strip("[]"), int(port))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@contextmanager
def connected(
    address: Address, process_id: int, processes: int, *, devices: int | None, seconds: int
) -> Iterator["ConnectedDistribution"]:
    """Connect the processes of a training during a block.

    An exception in the block, or the loss of another process, ends this process immediately, with
    status 1 and a message, because JAX would wait for the lost process at a normal exit. If the
    first process is lost, JAX aborts this process instead, with the status of SIGABRT.

    Args:
        address: the address at which the first process waits for the others.
        process_id: the number of this process, from 0.
        processes: the number of processes.
        devices: the number of devices that each process uses; by default all devices that it has.
        seconds: time to wait for the others.

    Raises:
        DistributionError: the processes cannot be connected.
    """
    import jax

    with Watcher() as watcher:
        _initialize(jax, address, process_id, processes, seconds, watcher)
        gone = f"process 0, the coordinator at {address}," if process_id else "another process"
        watcher.expect(
            f"process {process_id} of {processes} was ended, probably because {gone} is gone. "
            f"{RESUME}."
        )
        found = _choose_devices(jax, devices, processes)
        peers = Peers(process_id, processes, watcher)
        try:
            yield ConnectedDistribution(
                found, process_id=process_id, processes=processes, peers=peers
            )
        except BaseException as error:
            if peers.is_closed:  # the other processes no longer wait for this one
                raise
            peers.end(error)
        peers.close()


def _initialize(
    jax: Any, address: Address, process_id: int, processes: int, seconds: int, watcher: "Watcher"
) -> None:
    """Connect to the coordinator, or start it in the first process."""
    problem = (
        f"process {process_id} cannot reach the coordinator at {address}, which process 0 starts, "
        f"within {seconds} s"
    )
    if process_id:
        _wait_for(address, seconds, problem)
    else:
        problem = f"not all of the {processes} processes connected to {address} within {seconds} s"
    watcher.expect(problem)  # for the case that JAX aborts the process after this time
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
    """Wait until a port accepts connections.

    Raises:
        DistributionError: the port does not accept connections in time.
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
    """Return the devices to use, the same number from each process."""
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

    peers: "Peers"

    @contextmanager
    def opened(self, run: Path) -> Iterator[Path]:
        """Yield the run directory of this process, which is temporary except in the first process.

        Within the block, only the first process prints. Exceptions of the other processes, and
        messages about lost processes, are printed after the block.
        """
        if self.is_first:
            yield run
            return
        directory = tempfile.mkdtemp(prefix="keras-cnns-")
        self.peers.remove_at_the_end(directory)
        try:
            with Path(os.devnull).open("w") as null, redirect_stdout(null), redirect_stderr(null):
                yield Path(directory)
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def share(self, run: Path, recipe: Recipe, data_fingerprint: str) -> None:
        """Send the first process's checkpoint to the others, and compare their recipes and data.

        Raises:
            DistributionError: the recipe or the data of this process differ from the first
                process's.
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
                with suppress(CheckpointError):  # `Resume` reports a damaged checkpoint
                    read_checkpoint(path)
                    mine["checkpoint"], content = path.name, path.read_bytes()
                    break
        first = json.loads(_broadcast(json.dumps(mine).encode()))
        for key, other in (("recipe", "another recipe"), ("data", "other data")):
            if first[key] != mine[key]:
                raise DistributionError(
                    f"process {self.process_id} has {other} than process 0; start all processes "
                    "with the same recipe and the same data"
                )
        content = _broadcast(content)
        if first["checkpoint"] and not self.is_first:
            (run / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
            (run / CHECKPOINTS / first["checkpoint"]).write_bytes(content)

    def finish(self) -> None:
        """Disconnect the processes after the last step; the first process continues alone."""
        self.peers.close()

    def agree(self, state: Any) -> Any:
        """Return the first process's values of a training state, as NumPy arrays."""
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
    """Return the bytes of the first process."""
    from jax.experimental import multihost_utils

    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    if size == 0:
        return b""
    values = np.zeros(size, np.uint8)
    values[: len(content)] = np.frombuffer(content, np.uint8)[:size]
    return np.asarray(multihost_utils.broadcast_one_to_all(values), np.uint8).tobytes()
