"""Two replicas of the server behind a proxy, and clients that note every failed answer."""

import contextlib
import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
import trustme

from tests.serve.processes import CLASSIFY, IMAGE

DEPLOY = Path(__file__).parents[2] / "deploy"
UNIT = DEPLOY / "systemd" / "keras-cnns-serve@.service"
CERTIFICATES = "/etc/keras-cnns-serve/"  # the folder in the files
RUNTIME = "/run/"  # systemd's folder in the files
PORTS = (8501, 8500, 8511, 8510)  # HTTP and gRPC of the first replica, and of the second
SECONDS = 60  # for a start or an end
HTTP_CLIENTS, GRPC_CLIENTS = 2, 6
PAUSE = 0.002  # seconds of a client between two requests
LABEL = "grey-5"  # of the image


def program(name: str, package: str) -> str:
    """Return the path of a program, which may be in /usr/sbin."""
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/usr/bin")
    if path is None:
        pytest.fail(f"this test needs {name}: {package}")
    return path


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)
        ]
        return [each.getsockname()[1] for each in sockets]


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"not within {SECONDS} s: {what}")
        time.sleep(0.02)


class Replica:
    """A server on fixed ports, started and stopped as systemd does it.

    Args:
        name: the instance of the systemd unit.
        repository: the models.
        runtime: takes the place of /run.
        port: of HTTP.
        grpc_port: of gRPC.
        draining: whether the commands of ExecStop= run before the end.
    """

    def __init__(
        self,
        name: str,
        repository: Path,
        runtime: Path,
        port: int,
        grpc_port: int,
        draining: bool,
    ) -> None:
        directory, *stops = (
            each.replace("%i", name).replace("%t", str(runtime))
            for setting in ("RuntimeDirectory", "ExecStop")
            for each in re.findall(rf"^{setting}=(.+)$", UNIT.read_text("utf-8"), re.MULTILINE)
        )
        self._directory = runtime / directory
        self.draining = self._directory / "draining"
        self._stops = [shlex.split(each) for each in stops]
        assert self._stops
        if not draining:
            self._stops = []
        self._command = [sys.executable, "-m", "keras_cnns_serve.cli", str(repository)]
        self._command += ["--port", str(port), "--grpc-port", str(grpc_port)]
        self.url = f"http://127.0.0.1:{port}"
        self.starts = 0

    def start(self) -> None:
        """Starts the server, and returns when it accepts requests."""
        self._directory.mkdir(parents=True)
        self._popen = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.starts += 1
        wait_until(lambda: self.answered() is not None, f"{self.url} is ready")

    def answered(self) -> float | None:
        """The predictions that this process has answered; None if it is not ready."""
        try:
            httpx.get(f"{self.url}/readyz", timeout=2).raise_for_status()
            metrics = httpx.get(f"{self.url}/metrics", timeout=2).text
        except httpx.HTTPError:
            return None
        ok = 'keras_cnns_serve_requests_total{code="OK",model="grey",version="1"} '
        return sum(float(line[len(ok) :]) for line in metrics.splitlines() if line.startswith(ok))

    def stop(self) -> None:
        """Runs the commands of ExecStop=, sends SIGTERM and demands success."""
        try:
            for command in self._stops:
                subprocess.run(command, check=True)
            self._popen.terminate()
            assert self._popen.wait(SECONDS) == 0
        finally:
            self._popen.kill()
            shutil.rmtree(self._directory)


@dataclass(frozen=True)
class Site:
    """A certificate, and the ports of the proxy and of the replicas."""

    folder: Path
    ports: dict[int, int]  # those in the files -> those of the test

    @property
    def url(self) -> str:
        return f"https://localhost:{self.ports[443]}"

    @property
    def runtime(self) -> Path:
        """Takes the place of /run."""
        return self.folder / "run"

    @property
    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.folder / "ca.pem"))

    def text(self, path: str) -> str:
        """A file in deploy/ with this certificate, and the ports and folders of the replicas."""
        text = (DEPLOY / path).read_text("utf-8")
        assert CERTIFICATES in text
        for folder, here in ((CERTIFICATES, self.folder), (RUNTIME, self.runtime)):
            text = text.replace(f" {folder}", f" {here}/")
        for port in PORTS:
            assert str(port) in text
            for address in ("127.0.0.1:{}", "127.0.0.1, port_value: {}"):
                text = text.replace(address.format(port), address.format(self.ports[port]))
        return text


def make_site(folder: Path) -> Site:
    folder.chmod(0o755)
    ca = trustme.CA()
    leaf = ca.issue_cert("localhost", "127.0.0.1")
    (folder / "tls.crt").write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    (folder / "tls.key").write_bytes(leaf.private_key_pem.bytes())
    (folder / "ca.pem").write_bytes(ca.cert_pem.bytes())
    numbers = (443, *PORTS)
    return Site(folder, dict(zip(numbers, free_ports(len(numbers)), strict=True)))


def grpc_client(site: Site) -> triton.InferenceServerClient:
    """A client of the proxy."""
    return triton.InferenceServerClient(
        site.url.removeprefix("https://"),
        ssl=True,
        root_certificates=str(site.folder / "ca.pem"),
    )


@dataclass
class Load:
    """Clients that each send one request after another until the end.

    Args:
        http: returns a client of HTTP; None: only gRPC.
        grpc: returns a client of gRPC.
    """

    http: Callable[[], httpx.Client] | None
    grpc: Callable[[], triton.InferenceServerClient]
    failures: list[str] = field(default_factory=list)
    end: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.answers = {"gRPC": 0} if self.http is None else {"HTTP": 0, "gRPC": 0}

    @classmethod
    def through(cls, site: Site) -> "Load":
        """Clients of the proxy."""
        return cls(
            lambda: httpx.Client(base_url=site.url, verify=site.context, timeout=10),
            lambda: grpc_client(site),
        )

    def ask_http(self, client: httpx.Client) -> None:
        response = client.post(CLASSIFY, content=IMAGE)
        assert response.status_code == 200, response.text
        assert LABEL in response.text

    def ask_grpc(self, client: triton.InferenceServerClient) -> None:
        tensor = triton.InferInput("images", [1, 8, 8, 1], "UINT8")
        tensor.set_data_from_numpy(np.full((1, 8, 8, 1), 130, np.uint8))
        result = client.infer("grey", [tensor], client_timeout=10)
        assert result.as_numpy("probabilities").argmax() == 5

    def ask(self, kind: str, connect: Callable[[], Any], once: Callable[[Any], None]) -> None:
        with connect() as client:
            while not self.end.wait(PAUSE):
                try:
                    once(client)
                except Exception as error:
                    self.failures.append(f"{kind}: {error}")
                self.answers[kind] += 1

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        clients = [("gRPC", self.grpc, self.ask_grpc)] * GRPC_CLIENTS
        if self.http is not None:
            clients += [("HTTP", self.http, self.ask_http)] * HTTP_CLIENTS
        threads = [threading.Thread(target=self.ask, args=client) for client in clients]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.end.set()
            for thread in threads:
                thread.join()

    def wait_for_more(self) -> None:
        """Waits until each kind of client has had further answers."""
        before = dict(self.answers)
        wait_until(
            lambda: all(self.answers[kind] >= before[kind] + 20 for kind in before),
            "20 further answers",
        )


@contextlib.contextmanager
def proxy(command: list[str], site: Site) -> Iterator[None]:
    """A proxy that answers when the context is entered; the replicas run."""
    log = site.folder / "proxy.log"
    with log.open("w") as stream:
        popen = subprocess.Popen(command, stdout=stream, stderr=stream)
    try:
        wait_until(lambda: popen.poll() is not None or _answers(site), "the proxy answers")
        assert popen.poll() is None, log.read_text()
        yield
    finally:
        popen.terminate()
        try:
            popen.wait(SECONDS)
        finally:
            popen.kill()


def _answers(site: Site) -> bool:
    try:
        response = httpx.get(f"{site.url}/readyz", verify=site.context, timeout=2)
    except httpx.HTTPError:
        return False
    return response.status_code == 200


@contextlib.contextmanager
def two_replicas(repository: Path, site: Site, draining: bool = False) -> Iterator[list[Replica]]:
    first, second = (
        Replica(name, repository, site.runtime, site.ports[http], site.ports[grpc], draining)
        for name, http, grpc in (("first", *PORTS[:2]), ("second", *PORTS[2:]))
    )
    with contextlib.ExitStack() as stack:
        for replica in (first, second):
            stack.callback(replica.stop)
            replica.start()
        yield [first, second]


def restart_without_a_failed_answer(replicas: list[Replica], load: Load) -> None:
    """Restarts one replica after the other while clients ask."""
    starts = [replica.starts for replica in replicas]
    with load.running():
        load.wait_for_more()
        for replica in replicas:
            replica.stop()
            load.wait_for_more()
            replica.start()
            load.wait_for_more()
        # The restarted replicas get requests again.
        wait_until(lambda: all(replica.answered() for replica in replicas), "both replicas answer")
    assert not load.failures, load.failures[:5]
    assert [replica.starts for replica in replicas] == [each + 1 for each in starts]


def check_that_a_draining_replica_gets_no_requests(replicas: list[Replica], site: Site) -> None:
    """The other replica gets them; if both are draining, they still answer."""
    for draining, other in (replicas, replicas[::-1]):
        draining.draining.touch()
        before, others = draining.answered(), other.answered() or 0
        load = Load.through(site)
        with load.running():
            load.wait_for_more()
            assert draining.answered() == before
            assert (other.answered() or 0) > others
            other.draining.touch()
            load.wait_for_more()
        assert not load.failures, load.failures[:5]
        draining.draining.unlink()
        other.draining.unlink()


def check_what_is_not_for_clients(site: Site) -> None:
    """Metrics and the administration of models are hidden, on both protocols."""
    with httpx.Client(base_url=site.url, verify=site.context) as client:
        for path in ("/metrics", "/monitoring/prometheus/metrics"):
            assert client.get(path).status_code == 404, path
        for path in (
            "/v2/repository/index",
            "/v2/repository/models/grey/unload",
            "/v2/%72epository/index",
            "/v2//repository/index",
            "/v1/../v2/repository/index",
        ):
            assert client.post(path).status_code == 404, path
            assert "nginx" in client.post(path).text or not client.post(path).text, path
        assert client.get("/v2/models/grey/ready").status_code == 200
    with grpc_client(site) as client:
        assert client.is_server_ready()
        with pytest.raises(triton.InferenceServerException, match="UNIMPLEMENTED"):
            client.unload_model("grey")
