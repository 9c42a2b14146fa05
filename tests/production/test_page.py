"""The commands of docs/production.md and docs/coming-from.md that can run here."""

import contextlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.production.replicas import (
    DEPLOY,
    Load,
    Replica,
    free_ports,
    make_site,
    program,
    restart_without_a_failed_answer,
    two_replicas,
    wait_until,
)
from tests.serve.processes import IMAGE

DOCS = DEPLOY.parent / "docs"
BLOCK = re.compile(r"^ *```(sh checked|sh checked server|python clients)\n(.*?)^ *```", re.M | re.S)
PORT = "127.0.0.1:8501"


@pytest.fixture(scope="module")
def workplace(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model `digits`, an image, and the files in deploy/."""
    folder = tmp_path_factory.mktemp("workplace")
    shutil.copytree(repository / "grey", folder / "models" / "digits")
    (folder / "image.png").write_bytes(IMAGE)
    (folder / "deploy").symlink_to(DEPLOY)
    return folder


@contextlib.contextmanager
def started(command: str, port: int, folder: Path) -> Iterator[None]:
    name, *arguments = shlex.split(command)
    assert name == "keras-cnns-serve"
    arguments += ["--port", str(port), "--grpc-port", "0"]
    log = folder / "log"
    with log.open("w") as stream:
        popen = subprocess.Popen(
            [sys.executable, "-m", "keras_cnns_serve.cli", *arguments],
            cwd=folder,
            stdout=stream,
            stderr=stream,
        )
    try:
        wait_until(lambda: popen.poll() is not None or "try: " in log.read_text(), "a start")
        assert popen.poll() is None, log.read_text()
        yield
        popen.terminate()
        assert popen.wait(30) == 0
    finally:
        popen.kill()


def blocks(page: str) -> list[tuple[str, str]]:
    """The kind and the code of each block."""
    return BLOCK.findall((DOCS / page).read_text("utf-8"))


def run_block(code: str, port: int, folder: Path) -> str:
    process = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", code.replace(PORT, f"127.0.0.1:{port}")],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, (code, process.stdout, process.stderr)
    return process.stdout


def test_the_commands_for_production_succeed(workplace: Path) -> None:
    program("promtool", "apt-get install prometheus")
    program("h2load", "apt-get install nghttp2-client")
    (port,) = free_ports(1)
    checked = [block for block in blocks("production.md") if block[0] != "python clients"]
    assert [kind for kind, _ in checked].count("sh checked server") == 1
    printed = []
    with contextlib.ExitStack() as stack:
        for kind, code in checked:
            if kind == "sh checked server":
                stack.enter_context(started(code, port, workplace))
            else:
                printed.append(run_block(code, port, workplace))
    assert any('"label":"grey-5"' in each for each in printed)
    assert any("status codes: 200 2xx, 0 3xx, 0 4xx, 0 5xx" in each for each in printed)


def test_the_requests_of_other_servers_are_answered(workplace: Path) -> None:
    (port,) = free_ports(1)
    with started("keras-cnns-serve models", port, workplace):
        printed = [run_block(code, port, workplace) for _, code in blocks("coming-from.md")]
    predict, infer, classify, form, _ = printed
    (probabilities,) = json.loads(predict)["predictions"]
    (output,) = json.loads(infer)["outputs"]
    for row in (probabilities, output["data"]):
        assert max(range(10), key=row.__getitem__) == 5
    for answer in (classify, form):
        assert json.loads(answer)["predictions"][0]["labels"][0]["label"] == "grey-5"


@pytest.fixture
def replicas(repository: Path, tmp_path: Path) -> Iterator[tuple[list[Replica], dict[int, int]]]:
    site = make_site(tmp_path)
    with two_replicas(repository, site) as both:
        yield both, site.ports


def test_grpc_clients_need_no_proxy(replicas: tuple[list[Replica], dict[int, int]]) -> None:
    both, ports = replicas
    (code,) = (code for kind, code in blocks("production.md") if kind == "python clients")
    for port in (8500, 8510):
        assert f"127.0.0.1:{port}" in code
        code = code.replace(f"127.0.0.1:{port}", f"127.0.0.1:{ports[port]}")

    def client() -> Any:
        names: dict[str, Any] = {}
        exec(code, names)
        return names["client"]

    restart_without_a_failed_answer(both, Load(None, client))
