"""Under load, and while models are reloaded, every answer is right; memory and time are bounded."""

import asyncio
import json
import shutil
import time
import urllib.request
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from .clients import PROTOCOLS, Clients, Load, Pixels, Scores, body_of, check, p99
from .conftest import Row
from .endless import publish_endless
from .server import OPTIONS, Server, running, seconds, wait_for

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

MB = 1_000_000
RELOADS = 20
RELOAD_SECONDS = 20.0  # until a published version answers
IMAGES = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 1), np.uint8)


def scores(model: Path, pixels: Pixels) -> Scores:
    """Return the probabilities that the graph itself has for images."""
    session = onnxruntime.InferenceSession(model / "model.onnx")
    [result] = session.run(["probabilities"], {"images": pixels})
    return np.asarray(result, np.float32)


def state(server: Server, version: int) -> dict[str, str]:
    """Return a version's state and the reason for it."""
    url = f"http://127.0.0.1:{server.http_port}/v1/models/digits"
    with urllib.request.urlopen(url, timeout=10) as answer:
        states = json.load(answer)["model_version_status"]
    found = [each for each in states if each["version"] == str(version)]
    if not found:
        return {"state": "", "reason": ""}
    return {"state": found[0]["state"], "reason": found[0]["status"]["error_message"]}


def publish(models: Path, version: int) -> None:
    """Publish digits/1 again under another number."""
    folder = models / "digits"
    shutil.copytree(folder / "1", folder / "copy")
    (folder / "copy").rename(folder / str(version))


def reload(server: Server, version: int) -> None:
    """Publish a version and wait until it answers."""
    publish(server.models, version)
    waited = wait_for(lambda: state(server, version)["state"] == "AVAILABLE", RELOAD_SECONDS)
    assert waited is not None, state(server, version)


def test_reload_under_load(models: Path, tmp_path: Path, row: Row) -> None:
    right = scores(models / "digits" / "1", IMAGES)
    with (
        running(models, tmp_path / "log") as server,
        Load((server.http_port, server.grpc_port), IMAGES, right) as load,
    ):
        time.sleep(1.0)
        calm = time.monotonic()
        time.sleep(seconds(10))
        start = time.monotonic()
        for version in range(2, 2 + RELOADS):
            reload(server, version)
        end = time.monotonic()
        row["requests"] = len(load.records)
        row["p99_ms"] = [p99(load.records, calm, start), p99(load.records, start, end)]
        row["reload_s"] = (end - start) / RELOADS
        assert load.problems() == []


def test_images_are_not_mixed_up(models: Path, tmp_path: Path, row: Row) -> None:
    count, batch = 10_000, 20
    sums = 1000 + np.random.default_rng(0).permutation(count)  # each image has another mean
    flat = sums[:, np.newaxis] // 64 + (np.arange(64) < sums[:, np.newaxis] % 64)
    pixels = flat.astype(np.uint8).reshape(count, 8, 8, 1)
    right = scores(models / "grey" / "1", pixels)
    by_mean = right[np.argsort(sums)]
    nearest = np.abs(np.diff(by_mean, axis=0)).max(axis=1)
    tolerance = float(nearest.min()) / 3
    assert tolerance > 1e-7

    async def ask_all(server: Server) -> list[str]:
        async with Clients(server.http_port, server.grpc_port, "grey") as clients:
            asking = []
            for number, at in enumerate(range(0, count, batch)):
                protocol = PROTOCOLS[number % len(PROTOCOLS)]
                body = body_of(protocol, "grey", pixels[at : at + batch])
                ask = partial(clients.ask, protocol, body)
                asking.append(check(ask, protocol, right[at : at + batch], tolerance))
            return await asyncio.gather(*asking)

    with running(models, tmp_path / "log") as server:
        start = time.monotonic()
        problems = [problem for problem in asyncio.run(ask_all(server)) if problem]
        row["images"], row["seconds"] = count, time.monotonic() - start
    assert problems == []


def test_memory_of_many_requests(models: Path, tmp_path: Path, row: Row) -> None:
    right = scores(models / "digits" / "1", IMAGES)
    requests = round(seconds(100_000))
    with running(models, tmp_path / "log") as server:
        ports = (server.http_port, server.grpc_port)
        with Load(ports, IMAGES, right, clients=16, pause=0) as load:
            assert wait_for(lambda: len(load.records) >= 2000, 60) is not None
            before = server.resident()
            start = time.monotonic()
            for version in range(2, 2 + RELOADS):
                reload(server, version)
            wait_for(lambda: len(load.records) >= requests, 480)
        row["requests"], row["seconds"] = len(load.records), time.monotonic() - start
        wait_for(lambda: server.resident() <= before + 50 * MB, 10)
        row["megabytes"] = [round(each / MB) for each in (before, server.peak, server.resident())]
        assert load.problems() == []
        assert len(load.records) >= requests
        assert server.resident() <= before + 50 * MB


def test_kill_and_restart(models: Path, tmp_path: Path, row: Row) -> None:
    right = scores(models / "digits" / "1", IMAGES)
    with running(models, tmp_path / "log") as server:
        ports = (server.http_port, server.grpc_port)
        with Load(ports, IMAGES, right) as load:
            time.sleep(seconds(3))
            assert load.problems() == []
            server.process.kill()
            server.process.wait()
    options = (*OPTIONS[:-2], "--port", str(ports[0]), "--grpc-port", str(ports[1]))
    start = time.monotonic()
    with (
        running(models, tmp_path / "log", options=options),
        Load(ports, IMAGES, right) as load,
    ):
        wait_for(lambda: bool(load.records), 10)
        row["restart_s"] = time.monotonic() - start
        time.sleep(seconds(3))
        assert load.records
        assert load.problems() == []
    assert row["restart_s"] < 10


def test_stop_under_load(models: Path, tmp_path: Path, row: Row) -> None:
    right = scores(models / "digits" / "1", IMAGES)
    with (
        running(models, tmp_path / "log") as server,
        Load((server.http_port, server.grpc_port), IMAGES, right, pause=0) as load,
    ):
        time.sleep(seconds(3))
        assert load.problems() == []
        start = time.monotonic()
        status = server.stop()
        row["stop_s"], row["status"] = time.monotonic() - start, status
        log = server.log_tail()
    assert status == 0, log
    assert "Traceback" not in log
    assert not [problem for problem in load.problems() if "wrong answer" in problem]


def test_endless_graph_blocks_no_other_version(models: Path, tmp_path: Path, row: Row) -> None:
    with running(models, tmp_path / "log") as server:
        publish_endless(models / "digits" / "2", name="digits")
        assert wait_for(lambda: bool(state(server, 2)["state"]), 10) is not None
        publish(models, 3)
        row["good_s"] = wait_for(lambda: state(server, 3)["state"] == "AVAILABLE", 20)
        row["endless"] = state(server, 2)
        publish_endless(models / "digits" / "4", name="digits")
        time.sleep(2)
        row["status"] = server.stop()
        log = server.log_tail()
    assert row["good_s"] is not None, log
    assert row["endless"]["state"] != "AVAILABLE"
    assert row["endless"]["reason"], log
    assert row["status"] == 0, log
