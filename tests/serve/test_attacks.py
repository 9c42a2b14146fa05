"""Short forms of the attacks of `make soak`, all on one server, beside well-behaved clients."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.serve.conftest import write_version
from tests.soak.attacks import ATTACKS
from tests.soak.server import BUDGET, Server, running
from tests.soak.target import Target, run
from tests.soak.wellbehaved import Waits, WellBehaved

SECONDS = 0.3
# Without "hpack", which grpcio does not withstand (SECURITY.md): the soak measures it.
SHORT = (
    "gzip-bodies",
    "json-bodies",
    "plain-json",
    "v2-nested-json",
    "progressive-jpegs",
    "large-jpegs",
    "narrow-pngs",
    "unfinished-bodies",
    "slow-heads",
    "one-byte-chunks",
    "rapid-reset",
    "continuation",
    "unfinished-messages",
    "gzip-messages",
    "repeated-values",
)


@dataclass
class Attacked:
    """A server, and the clients that nothing may disturb."""

    server: Server
    clients: WellBehaved
    start: float


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    root = tmp_path_factory.mktemp("attacked")
    write_version(root / "models" / "digits" / "1")
    with running(root / "models", root / "log") as server, WellBehaved(server, side=8) as clients:
        yield Attacked(server, clients, time.monotonic())


@pytest.mark.parametrize("name", SHORT)
def test_an_attack_ends_nothing(attacked: Attacked, name: str) -> None:
    server = attacked.server
    target = Target(server.http_port, server.grpc_port, server.models, side=8)
    asyncio.run(run(ATTACKS[name].run, target, SECONDS))
    assert server.alive
    assert server.answers()
    assert not [status for status in target.answers if status in ("500", "INTERNAL", "UNKNOWN")]


def test_nobody_else_noticed(attacked: Attacked) -> None:
    """After the attacks: each of the other clients' requests was answered, and rightly."""
    for records in attacked.clients.stop().values():
        waits = Waits.of(records, attacked.start, time.monotonic())
        assert waits.failures == ()
        assert waits.longest < 5  # on a machine that does other work, too
    assert attacked.server.peak < BUDGET + 200_000_000
    assert attacked.server.stop() == 0
    assert "Traceback" not in Path(attacked.server.log).read_text()
