"""Well-behaved clients: 50 requests a second over HTTP and 50 over gRPC, whatever happens.

They are a process of their own: `python -m tests.soak.wellbehaved HTTP_PORT GRPC_PORT SIDE` sends
requests at fixed times until its standard input is closed, and prints what happened as JSON. A late
answer delays no other request, and its wait counts from the time that was fixed for it.

Server, attackers and clients share the machine's few cores here. So that the clients' own lack of a
core is not taken for a slow server, a ticker on the clients' event loop notes each span in which
the loop did not run; what a request's wait has in common with such spans is subtracted from it.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .clients import LIMIT, Clients, Pixels, Record, body_of, check, scores_of
from .server import ROOT, Server

RATE = 50  # requests a second, over each protocol
TICK = 0.01  # seconds between two looks at the clock
STALL = 0.01  # seconds by which a look is late when the loop did not run


class Watch:
    """The spans in which this process's event loop did not run."""

    def __init__(self) -> None:
        self.stalls: list[tuple[float, float]] = []

    async def run(self) -> None:
        while True:
            due = time.monotonic() + TICK
            await asyncio.sleep(TICK)
            now = time.monotonic()
            if now - due > STALL:
                self.stalls.append((due, now))

    def within(self, start: float, end: float) -> float:
        """Return how many seconds of a span the loop did not run."""
        return sum(max(0.0, min(end, b) - max(start, a)) for a, b in self.stalls)


async def record(
    clients: Clients, protocol: str, pixels: Pixels, watch: Watch, stop: asyncio.Event
) -> list[Record]:
    """Ask at fixed times until stopped, and compare each answer with the first."""
    body = body_of(protocol, clients.model, pixels)
    right = scores_of(protocol, await clients.ask(protocol, body))
    records: list[Record] = []

    async def one(due: float) -> None:
        wrong = await check(lambda: clients.ask(protocol, body), protocol, right)
        end = time.monotonic()
        records.append((due, max(0.0, end - due - watch.within(due, end)), wrong))

    due = time.monotonic()
    async with asyncio.TaskGroup() as group:
        while not stop.is_set():
            due += 1 / RATE
            await asyncio.sleep(due - time.monotonic())
            group.create_task(one(due))
    return sorted(records)


async def main(http_port: int, grpc_port: int, side: int) -> dict[str, list[Record]]:
    """Be the clients until standard input is closed; return what happened."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, side, side, 1), np.uint8)
    watch, stop = Watch(), asyncio.Event()
    async with Clients(http_port, grpc_port) as clients, asyncio.TaskGroup() as group:
        watching = group.create_task(watch.run())
        recording = {
            name: group.create_task(record(clients, protocol, pixels, watch, stop))
            for name, protocol in {"http": "classify-image", "grpc": "v1-grpc"}.items()
        }
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        stop.set()
        await asyncio.wait(recording.values())
        watching.cancel()
    return {name: task.result() for name, task in recording.items()}


@dataclass(frozen=True)
class Waits:
    """How long the answers of a phase took, in seconds."""

    median: float
    p99: float
    longest: float
    failures: tuple[str, ...]

    @classmethod
    def of(cls, records: Sequence[Record], start: float, end: float) -> "Waits":
        """Summarise the requests whose time was in a phase."""
        chosen = [record for record in records if start <= record[0] < end]
        waits = sorted(wait for _, wait, _ in chosen)
        return cls(
            statistics.median(waits),
            waits[int(len(waits) * 0.99)],
            waits[-1],
            tuple(wrong for _, _, wrong in chosen if wrong),
        )


class WellBehaved:
    """The process of well-behaved clients, while its context is entered."""

    def __init__(self, server: Server, side: int = 32) -> None:
        module = "tests.soak.wellbehaved"
        ports = [str(server.http_port), str(server.grpc_port), str(side)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *ports],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "WellBehaved":
        assert self._process.stdout
        assert self._process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()

    def stop(self) -> dict[str, list[Record]]:
        """End the clients and return their records: of "http" and "grpc"."""
        printed, _ = self._process.communicate(timeout=LIMIT + 30)
        return {
            key: [tuple(each) for each in records] for key, records in json.loads(printed).items()
        }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(*map(int, sys.argv[1:])))))
