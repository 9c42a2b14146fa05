"""While the server is attacked, others are answered quickly and rightly, and memory is bounded.

Each attack meets a server of its own, which has 256 MB for its clients and 3 GiB of addresses. A
row has the well-behaved clients' median and longest wait, calm and attacked, in milliseconds, and
the server's memory before, at most and after, in megabytes.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from .attacks import ATTACKS
from .conftest import Row
from .server import BUDGET, ROOT, Server, running, seconds, wait_for
from .wellbehaved import Waits, WellBehaved

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

MB = 1_000_000
CALM_SECONDS = 2.0
PEAK = BUDGET + 200 * MB
LEFT = 50 * MB
RECOVERY_SECONDS = 10.0


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(name: str, models: Path, tmp_path: Path, row: Row) -> None:
    attack = ATTACKS[name]
    row["does"] = attack.does
    limits = {resource.RLIMIT_NOFILE: attack.open_files} if attack.open_files else {}
    with running(models, tmp_path / "log", limits) as server:
        row["problems"] = problems = _measure(name, server, row)
        row["log_kb"] = server.log.stat().st_size / 1000
        status = server.stop()
    if status != 0:
        problems.append(f"it ended with {status}, not 0: {server.log_tail(500)!r}")
    assert not problems


def _measure(name: str, server: Server, row: Row) -> list[str]:
    """Attack once, fill the row and return what was not as it must be."""
    with WellBehaved(server) as clients:
        time.sleep(1.0)  # connections are opened
        calm = time.monotonic()
        time.sleep(CALM_SECONDS)
        before = server.resident()
        with _attack(name, server, seconds(ATTACKS[name].seconds)) as attackers:
            start = time.monotonic()
            row |= json.loads(attackers.read())
            end = time.monotonic()
        left = wait_for(lambda: server.resident() <= before + LEFT, RECOVERY_SECONDS)
        after = server.resident()
        problems = [] if server.answers() else ["it does not answer a new connection"]
        time.sleep(1.0)  # the clients' last requests are answered
        records = clients.stop()
    for protocol, of_protocol in records.items():
        quiet = Waits.of(of_protocol, calm, start)
        busy = Waits.of(of_protocol, start, end)
        # What was sent just before may wait, too, and what is sent later, while memory is freed.
        around = Waits.of(of_protocol, start - 0.1, time.monotonic())
        row[f"{protocol}_ms"] = [
            round(value * 1000, 1) for value in (quiet.median, busy.median, around.longest)
        ]
        allowed = max(5 * quiet.median, 0.020)
        if busy.median > allowed:
            problems.append(f"{protocol}: median {busy.median:.3f} s, above {allowed:.3f}")
        if around.longest > 1:
            problems.append(f"{protocol}: longest wait {around.longest:.2f} s, above 1")
        if around.failures:
            count = len(around.failures)
            problems.append(f"{protocol}: {count} failed, the first with {around.failures[0]}")
    row["memory_mb"] = [round(value / MB) for value in (before, server.peak, after)]
    row["attack_s"] = end - start
    if server.peak > PEAK:
        problems.append(f"memory: {server.peak / MB:.0f} MB, above {PEAK / MB:.0f}")
    if left is None:
        problems.append(f"memory: {(after - before) / MB:.0f} MB more after {RECOVERY_SECONDS} s")
    return problems


@contextmanager
def _attack(name: str, server: Server, duration: float) -> Iterator[IO[str]]:
    """Run the attack in a process of its own; it prints what it sent and received."""
    ports = [str(server.http_port), str(server.grpc_port)]
    command = [sys.executable, "-m", "tests.soak.attacks", name, *ports, str(duration)]
    process = subprocess.Popen(
        [*command, str(server.models)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout
        assert process.stdout.readline() == "attacking\n"
        yield process.stdout
