"""10,000 damaged bodies for each protocol get 4xx and gRPC's errors; the next gets its answer."""

import asyncio
import random
import time
from pathlib import Path

import numpy as np
import pytest

from .clients import PROTOCOLS, Clients, RefusedError, body_of, check, scores_of
from .conftest import Row
from .server import running, seconds

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

COUNT = 10_000
BATCH = 100  # damaged bodies between two good ones
IN_FLIGHT = 8
# What tells a client that it is wrong; anything else but an answer is the server's fault.
CLIENT_ERRORS = {
    "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
    "OUT_OF_RANGE",
}  # fmt: skip
# What a parser can be made to stumble over, put anywhere.
TOKENS = (b"[", b"]", b"{", b"}", b'"', b"\\", b"null", b"NaN", b"1e999", b"-1", b"\xff\xff", b"\0",
          b"9" * 40, b"\x80" * 10, b"\r\n", b"\xff\xd9", b"IEND", b"[" * 2000)  # fmt: skip


def damage(body: bytes, chance: random.Random) -> bytes:
    """Return the body with a random change, or four."""
    content = bytearray(body)
    for _ in range(chance.choice((1, 1, 1, 4))):
        at = chance.randrange(len(content) + 1)
        size = chance.choice((1, 2, 8, 100, 1000))
        match chance.randrange(6):
            case 0:  # another byte
                content[at : at + 1] = chance.randbytes(1)
            case 1:  # one bit
                if at < len(content):
                    content[at] ^= 1 << chance.randrange(8)
            case 2:
                del content[at:]
            case 3:
                del content[at : at + size]
            case 4:  # a part twice
                content[at:at] = content[at : at + size]
            case 5:
                content[at:at] = chance.choice(TOKENS)
    return bytes(content)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_hostile_bodies(protocol: str, models: Path, tmp_path: Path, row: Row) -> None:
    with running(models, tmp_path / "log") as server:
        asyncio.run(_send(server.http_port, server.grpc_port, protocol, row))
        assert server.alive
        assert "Traceback" not in server.log_tail(100_000)
    assert row["faults"] == {}
    assert row["good_ms"] < 1000


async def _send(http_port: int, grpc_port: int, protocol: str, row: Row) -> None:
    chance = random.Random(f"{protocol} 15")
    image = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 1), np.uint8)
    good = body_of(protocol, "grey", image)
    row["answers"], row["faults"], row["good_ms"] = {}, {}, 0.0
    async with Clients(http_port, grpc_port, "grey") as clients:
        right = scores_of(protocol, await clients.ask(protocol, good))

        async def damaged(body: bytes) -> None:
            try:
                await clients.ask(protocol, body)
                status = "200"
            except RefusedError as error:
                status = str(error).split()[0]
            except Exception as error:
                status = type(error).__name__
            row["answers"][status] = row["answers"].get(status, 0) + 1
            if status not in CLIENT_ERRORS and not status.startswith(("200", "4")):
                row["faults"].setdefault(status, body[:200].hex())

        for _ in range(0, round(seconds(COUNT)), BATCH):
            bodies = [damage(good, chance) for _ in range(BATCH)]
            for at in range(0, BATCH, IN_FLIGHT):
                await asyncio.gather(*map(damaged, bodies[at : at + IN_FLIGHT]))
            start = time.monotonic()
            problem = await check(lambda: clients.ask(protocol, good), protocol, right)
            assert not problem
            row["good_ms"] = max(row["good_ms"], 1000 * (time.monotonic() - start))
