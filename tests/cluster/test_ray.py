"""`score --engine ray` on a cluster of two nodes of this machine; `make test-cluster` runs it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from keras_cnns_serve.cli import main
from tests.serve.conftest import grey, write_version

SCORE = [sys.executable, "-m", "keras_cnns_serve.cli", "score"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes with one core each, whose address is in RAY_ADDRESS."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a model, ten photos and one file that is no image."""
    monkeypatch.chdir(tmp_path)
    write_version(tmp_path / "grey" / "1")
    (tmp_path / "photos").mkdir()
    for level in range(10):
        (tmp_path / "photos" / f"{level}.png").write_bytes(grey(26 * level))
    (tmp_path / "photos" / "55.png").write_bytes(b"no image")
    return tmp_path


def score(*arguments: object) -> int:
    return main(["score", "grey", *map(str, arguments)])


def shards(directory: Path) -> dict[str, bytes]:
    return {part.name: part.read_bytes() for part in sorted(directory.glob("part-*"))}


def summary(directory: Path) -> dict[str, Any]:
    return dict(json.loads((directory / "summary.json").read_text()))


def test_a_cluster_writes_what_one_machine_writes(
    cluster: Cluster, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("photos", "--shard-size", 3, "--top-k", 2)
    assert score(*options, "--to", "one") == 3
    assert score(*options, "--to", "many", "--engine", "ray") == 3
    assert shards(photos / "many") == shards(photos / "one")
    assert len(shards(photos / "many")) == 4
    one, many = summary(photos / "one"), summary(photos / "many")
    for key in ("model", "images", "failed", "labels", "shards", "precision"):
        assert many[key] == one[key]
    assert "11 images, 1 failed in" in capsys.readouterr().err
    assert score(*options, "--to", "answers.csv", "--engine", "ray") == 3
    assert len((photos / "answers.csv").read_text().splitlines()) == 12


def test_finished_shards_are_not_scored_again(cluster: Cluster, photos: Path) -> None:
    options = ("photos", "--shard-size", 3, "--to", "scores", "--engine", "ray")
    assert score(*options) == 3
    before = shards(photos / "scores")
    (photos / "scores" / "summary.json").unlink()
    (photos / "scores" / "part-00002.jsonl").unlink()
    kept = (photos / "scores" / "part-00001.jsonl").stat()
    assert score(*options) == 3
    assert shards(photos / "scores") == before
    assert (photos / "scores" / "part-00001.jsonl").stat() == kept
    assert summary(photos / "scores")["images_of_earlier_runs"] == 8


def test_a_killed_run_continues_on_one_machine(cluster: Cluster, photos: Path) -> None:
    for number in range(300):
        (photos / "photos" / f"more-{number}.png").write_bytes(grey(number % 250))
    options = ["grey", "photos", "--shard-size", "5", "--to", "scores"]
    process = subprocess.Popen([*SCORE, *options, "--engine", "ray"], cwd=photos, env=os.environ)
    end = time.monotonic() + 120
    while len(shards(photos / "scores")) < 2:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (photos / "scores" / "summary.json").exists()
    assert subprocess.run([*SCORE, *options], cwd=photos, check=False).returncode == 3
    assert summary(photos / "scores")["images"] == 311


def test_a_lost_node_does_not_lose_a_shard(cluster: Cluster, photos: Path) -> None:
    node = cluster.add_node(num_cpus=1)
    for number in range(300):
        (photos / "photos" / f"more-{number}.png").write_bytes(grey(number % 250))
    options = ["grey", "photos", "--shard-size", "5", "--to", "scores", "--engine", "ray"]
    process = subprocess.Popen([*SCORE, *options], cwd=photos, env=os.environ)
    while len(shards(photos / "scores")) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    cluster.remove_node(node, allow_graceful=False)
    assert process.wait(300) == 3
    assert summary(photos / "scores")["images"] == 311


def test_errors_are_one_line(
    cluster: Cluster, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score("photos", "--engine", "ray") == 2
    assert "--engine ray needs --to" in capsys.readouterr().err
    assert score("photos", "--to", "scores", "--engine", "ray", "--shard-size", 3) == 3
    (photos / "scores" / "summary.json").unlink()
    part = photos / "scores" / "part-00000.jsonl"
    part.unlink()
    (photos / "scores" / ".part-00000.jsonl.tmp").mkdir()  # so that this file cannot be written
    capsys.readouterr()
    assert score("photos", "--to", "scores", "--engine", "ray", "--shard-size", 3) == 1
    (line,) = [each for each in capsys.readouterr().err.splitlines() if "Errno" in each]
    assert "part-00000.jsonl.tmp" in line
