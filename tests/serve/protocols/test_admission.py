"""Tokens over both transports, and web pages of other sites."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest

from keras_cnns_serve.compose import Server
from keras_cnns_serve.core.access import Access
from keras_cnns_serve.options import ServerOptions
from keras_cnns_serve.protocols.admission import Admission
from keras_cnns_serve.protos import inference
from tests.serve.conftest import grey
from tests.serve.transport.grpc import frames

PREDICTION, ADMINISTRATION = "p" * 32, "a" * 32
CLASSIFY = "/v1/models/grey:classify-image"
LOAD = "/v2/repository/models/grey/load"
V2 = "/inference.GRPCInferenceService/"


@dataclass
class Running:
    """A server in a loop that the tests share."""

    loop: asyncio.AbstractEventLoop
    server: Server

    def http(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(base_url=self.server.url) as client:
                return await client.request(method, path, **options)

        return self.loop.run_until_complete(asyncio.wait_for(ask(), 30))

    def grpc(self, method: str, body: bytes = b"", token: str | None = None) -> str:
        """Return the name of the status."""
        metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        return self.call(method, body, *metadata)

    def call(self, method: str, body: bytes, *metadata: tuple[str, str | bytes]) -> str:
        """Return the name of the status of a call with this metadata."""

        async def ask() -> str:
            assert self.server.grpc_address is not None
            async with grpc.aio.insecure_channel(self.server.grpc_address) as channel:
                try:
                    await channel.unary_unary(method)(body, metadata=metadata, timeout=20)
                except grpc.aio.AioRpcError as error:
                    return str(error.code().name)
            return "OK"

        return self.loop.run_until_complete(ask())


@pytest.fixture(scope="module")
def running(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("tokens")
    for name, token in (("prediction", PREDICTION), ("administration", ADMINISTRATION)):
        (folder / name).write_text(token)
    options = ServerOptions(
        models=repository,
        port=0,
        admin=True,
        token_file=folder / "prediction",
        admin_token_file=folder / "administration",
        cors_origin=["https://page.example"],
    )
    with asyncio.Runner() as runner:
        server = Server(options)

        async def start() -> None:
            await server.__aenter__()

        async def stop() -> None:
            await server.__aexit__(None, None, None)

        runner.run(start())
        yield Running(runner.get_loop(), server)
        runner.run(stop())


def bearer(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize(
    ("method", "path", "statuses"),  # without a token, with a wrong one, and with each of the two
    [
        ("GET", "/healthz", (200, 200, 200, 200)),
        ("GET", "/readyz", (200, 200, 200, 200)),
        ("GET", "/v2/health/live", (200, 200, 200, 200)),
        ("GET", "/v2/health/ready", (200, 200, 200, 200)),
        ("GET", "/", (401, 401, 200, 200)),
        ("GET", "/metrics", (401, 401, 200, 200)),
        ("GET", "/openapi.json", (401, 401, 200, 200)),
        ("GET", "/v1/models/grey", (401, 401, 200, 200)),
        ("GET", "/nothing", (401, 401, 404, 404)),
        ("POST", CLASSIFY, (401, 401, 200, 200)),
        ("POST", LOAD, (401, 401, 403, 200)),
        ("POST", f"{LOAD}/", (401, 401, 403, 404)),
        ("POST", f"{LOAD}%0A", (401, 401, 403, None)),
        ("POST", LOAD.replace("/load", "/unload%0a"), (401, 401, 403, None)),
        ("GET", LOAD, (401, 401, 403, 405)),
        ("POST", LOAD.replace("models/", "models//"), (401, 401, 403, 404)),
    ],
)
def test_a_path_needs_its_token(
    running: Running, method: str, path: str, statuses: tuple[int | None, ...]
) -> None:
    content = grey(130) if path == CLASSIFY else b""
    tokens = (None, "x" * 32, PREDICTION, ADMINISTRATION)
    for token, status in zip(tokens, statuses, strict=True):
        response = running.http(method, path, content=content, headers=bearer(token))
        if status is not None:
            assert response.status_code == status, response.text
        assert response.headers["x-content-type-options"] == "nosniff"
        if response.status_code == 401:
            assert response.headers["www-authenticate"] == "Bearer"
            assert "Authorization: Bearer TOKEN" in response.json()["error"]


# Values of Authorization, as bytes on the wire -> the status.
HEADERS = {
    b"bearer " + PREDICTION.encode(): b"200",
    b"BEARER  " + PREDICTION.encode() + b" ": b"200",
    PREDICTION.encode(): b"401",
    b"Basic " + PREDICTION.encode(): b"401",
    b"Bearer " + PREDICTION.encode()[1:]: b"401",
    b"Bearer " + 2 * PREDICTION.encode(): b"401",
    b"Bearer " + PREDICTION.encode() + b", Bearer " + PREDICTION.encode(): b"401",
    b"Bearer " + PREDICTION.encode() + b"\r\nauthorization: Bearer " + PREDICTION.encode(): b"400",
    b"x\r\nAuthorization: Bearer " + PREDICTION.encode(): b"400",
    b"Bearer ": b"401",
    b"": b"401",
    b"Bearer " + 32 * b"\xf0": b"401",
    b"Bearer " + 60_000 * b"p": b"401",
}


def test_a_header_has_a_scheme_and_one_token(running: Running) -> None:
    async def ask() -> dict[bytes, bytes]:
        statuses = {}
        address = running.server.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(*address)
        for value in HEADERS:
            writer.write(
                b"GET /v1/models/grey HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\n" % value
            )
            writer.write(b"\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            statuses[value] = head.split()[1]
            length = head.partition(b"content-length: ")[2].split(b"\r\n")[0]
            await reader.readexactly(int(length))
        writer.close()
        return statuses

    assert running.loop.run_until_complete(asyncio.wait_for(ask(), 30)) == HEADERS


@pytest.mark.parametrize(
    ("method", "codes"),
    [
        ("/grpc.health.v1.Health/Check", ("OK", "OK", "OK", "OK")),
        (f"{V2}ServerLive", ("OK", "OK", "OK", "OK")),
        (f"{V2}ServerReady", ("OK", "OK", "OK", "OK")),
        (f"{V2}ServerMetadata", ("UNAUTHENTICATED", "UNAUTHENTICATED", "OK", "OK")),
        (
            f"{V2}RepositoryModelLoad",
            ("UNAUTHENTICATED", "UNAUTHENTICATED", "PERMISSION_DENIED", "OK"),
        ),
        (
            "/tensorflow.serving.ModelService/HandleReloadConfigRequest",
            ("UNAUTHENTICATED", "UNAUTHENTICATED", "PERMISSION_DENIED", "INVALID_ARGUMENT"),
        ),
    ],
)
def test_a_method_needs_its_token(running: Running, method: str, codes: tuple[str, ...]) -> None:
    load = inference.RepositoryModelLoadRequest(model_name="grey").SerializeToString()
    body = load if method.endswith("ModelLoad") else b""
    tokens = (None, "x" * 32, PREDICTION, ADMINISTRATION)
    assert tuple(running.grpc(method, body, token) for token in tokens) == codes


@pytest.mark.parametrize(
    "metadata",
    [
        ("authorization", PREDICTION),
        ("authorization", "Bearer "),
        ("authorization", f"Bearer {PREDICTION[1:]}"),
        ("authorization-bin", f"Bearer {PREDICTION}".encode()),
        ("authorization-bin", bytes(range(256))),
    ],
)
def test_metadata_has_a_scheme_and_one_token(
    running: Running, metadata: tuple[str, str | bytes]
) -> None:
    assert running.call(f"{V2}ServerMetadata", b"", metadata) == "UNAUTHENTICATED"


def test_metadata_has_one_authorization(running: Running) -> None:
    token, other = (("authorization", f"Bearer {each}") for each in (PREDICTION, "x" * 32))
    for metadata in ((token, token), (token, other), (other, token)):
        assert running.call(f"{V2}ServerMetadata", b"", *metadata) == "INVALID_ARGUMENT"


def test_a_token_with_bytes_that_are_not_utf8_is_not_logged(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    """grpcio would log the whole value, even if most of it is a valid token."""

    async def ask() -> bytes:
        port = int(str(running.server.grpc_address).rpartition(":")[2])
        async with frames.connect(port) as client:
            await client.until(frames.SETTINGS)
            client.send(frames.frame(frames.SETTINGS, frames.ACK, 0, b""))
            value = b"Bearer " + PREDICTION.encode() + b"\xff"
            client.send(frames.call_headers(1, f"{V2}ServerMetadata", authorization=value))
            client.send(frames.frame(frames.DATA, frames.END_STREAM, 1, bytes(5)))
            return await client.until(frames.HEADERS, frames.END_STREAM)

    trailers = running.loop.run_until_complete(asyncio.wait_for(ask(), 30))
    assert b"grpc-status\x0216" in trailers  # UNAUTHENTICATED
    assert not caplog.records


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://page.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "https://other.example"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://public.example"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Origin": "https://public.example", "Host": "public.example"}, 200),
        ({}, 200),
    ],
)
def test_administration_refuses_pages_of_other_sites(
    running: Running, headers: dict[str, str], status: int
) -> None:
    for path in (LOAD, f"{LOAD}%0A"):
        response = running.http("POST", path, headers=headers | bearer(ADMINISTRATION))
        assert (response.status_code == 403) == (status == 403), response.text


def test_pages_of_a_permitted_origin_may_ask(running: Running) -> None:
    asked = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    preflight = running.http(
        "OPTIONS", CLASSIFY, headers=asked | {"Origin": "https://page.example"}
    )
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://page.example"
    assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
    answer = running.http(
        "POST",
        CLASSIFY,
        content=grey(130),
        headers=bearer(PREDICTION) | {"Origin": "https://page.example"},
    )
    assert answer.headers["access-control-allow-origin"] == "https://page.example"
    other = running.http("OPTIONS", CLASSIFY, headers=asked | {"Origin": "https://other.example"})
    assert other.status_code == 400
    assert "access-control-allow-origin" not in other.headers


def test_metrics_may_be_open(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(PREDICTION)
    for open_metrics in (False, True):
        admission = Admission(Access(tokens), open_metrics)
        for path in ("/metrics", "/monitoring/prometheus/metrics", "/v1/models"):
            refusal = admission.authorize_http({"path": path, "headers": []})
            assert (refusal is None) == (open_metrics and "metrics" in path)
