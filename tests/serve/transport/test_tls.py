"""TLS on both ports, with real clients and real certificates."""

import asyncio
import contextlib
import datetime
import socket
import ssl
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
import trustme

from keras_cnns_serve.compose import Server
from keras_cnns_serve.core import watched_files
from keras_cnns_serve.errors import ConfigError
from keras_cnns_serve.options import ServerOptions
from keras_cnns_serve.protos import inference
from keras_cnns_serve.transport.tls import Tls
from tests.serve.processes import running

LIVE = "/inference.GRPCInferenceService/ServerLive"


@dataclass(frozen=True)
class Files:
    """The files of a server, and those of its clients."""

    certificate: Path
    key: Path
    ca: Path  # of the server's certificate


def write(ca: trustme.CA, folder: Path, **options: Any) -> Files:
    folder.mkdir(exist_ok=True)
    leaf = ca.issue_cert("localhost", "127.0.0.1", **options)
    files = Files(folder / "certificate.pem", folder / "key.pem", folder / "ca.pem")
    chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
    for path, content in (
        (files.certificate, chain),
        (files.key, leaf.private_key_pem.bytes()),
        (files.ca, ca.cert_pem.bytes()),
    ):
        # As a secret is replaced: never half of it.
        temporary = path.with_suffix(".new")
        temporary.write_bytes(content)
        temporary.replace(path)
    return files


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(ca: trustme.CA, tmp_path: Path) -> Files:
    return write(ca, tmp_path / "server")


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched_files, "POLL_SECONDS", 0.0)


@asynccontextmanager
async def serving(
    repository: Path, files: Files, client_ca: Path | None = None
) -> AsyncIterator[Server]:
    options = ServerOptions(
        models=repository,
        port=0,
        tls_certificate=files.certificate,
        tls_key=files.key,
        tls_client_ca=client_ca,
    )
    async with asyncio.timeout(60), Server(options) as server:
        yield server


async def ask_http(server: Server, trusted: Path, client: Files | None = None) -> str:
    """Return the answer, or the name of what went wrong."""
    context = ssl.create_default_context(cafile=str(trusted))
    if client is not None:
        context.load_cert_chain(client.certificate, client.key)
    try:
        async with httpx.AsyncClient(verify=context) as http:
            response = await http.get(f"{server.url}/healthz")
            return str(response.text)
    except (httpx.TransportError, ssl.SSLError) as error:
        return type(error).__name__


async def ask_grpc(server: Server, trusted: Path, client: Files | None = None) -> str:
    pair = (None, None) if client is None else (client.key, client.certificate)
    key, chain = (None if path is None else path.read_bytes() for path in pair)
    credentials = grpc.ssl_channel_credentials(trusted.read_bytes(), key, chain)
    assert server.grpc_address is not None
    async with grpc.aio.secure_channel(server.grpc_address, credentials) as channel:
        try:
            call = channel.unary_unary(LIVE)(b"", timeout=5)
            live: bool = inference.ServerLiveResponse.FromString(await call).live
            return str(live)
        except grpc.aio.AioRpcError as error:
            return str(error.code().name)


HTTP, GRPC = '{"status":"ok"}', "True"


def test_both_ports_are_encrypted(repository: Path, files: Files, tmp_path: Path) -> None:
    other = write(trustme.CA(), tmp_path / "other")

    async def main() -> None:
        async with serving(repository, files) as server:
            assert server.url.startswith("https://")
            assert await ask_http(server, files.ca) == HTTP
            assert await ask_grpc(server, files.ca) == GRPC
            # A client that trusts another authority.
            assert await ask_http(server, other.ca) == "ConnectError"
            assert await ask_grpc(server, other.ca) == "UNAVAILABLE"
            # A client without TLS.
            async with httpx.AsyncClient() as http:
                with pytest.raises(httpx.TransportError):
                    await http.get(server.url.replace("https", "http"))
            assert server.grpc_address is not None
            async with grpc.aio.insecure_channel(server.grpc_address) as channel:
                with pytest.raises(grpc.aio.AioRpcError):
                    await channel.unary_unary(LIVE)(b"", timeout=2)
            assert await ask_http(server, files.ca) == HTTP

    asyncio.run(main())


def test_an_expired_certificate_is_refused_by_clients(
    repository: Path, ca: trustme.CA, tmp_path: Path
) -> None:
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    files = write(ca, tmp_path / "expired", not_after=past)

    async def main() -> None:
        async with serving(repository, files) as server:
            assert await ask_http(server, files.ca) == "ConnectError"
            assert await ask_grpc(server, files.ca) == "UNAVAILABLE"

    asyncio.run(main())


def test_clients_need_a_certificate(
    repository: Path, ca: trustme.CA, files: Files, tmp_path: Path
) -> None:
    clients = trustme.CA()
    good = write(clients, tmp_path / "good")
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    expired = write(clients, tmp_path / "expired", not_after=past)
    foreign = write(trustme.CA(), tmp_path / "foreign")

    async def main() -> None:
        async with serving(repository, files, client_ca=good.ca) as server:
            assert await ask_http(server, files.ca, good) == HTTP
            assert await ask_grpc(server, files.ca, good) == GRPC
            for client in (None, expired, foreign):
                assert await ask_http(server, files.ca, client) != HTTP
                assert await ask_grpc(server, files.ca, client) == "UNAVAILABLE"
            assert await ask_http(server, files.ca, good) == HTTP

    asyncio.run(main())


@pytest.mark.usefixtures("at_once")
def test_files_that_change_are_read_again(
    repository: Path, files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    clients, later_clients = trustme.CA(), trustme.CA()
    client = write(clients, tmp_path / "client")
    later = write(later_clients, tmp_path / "later")
    accepted = tmp_path / "accepted.pem"
    accepted.write_bytes(client.ca.read_bytes())

    async def main() -> None:
        async with serving(repository, files, client_ca=accepted) as server:
            assert await ask_http(server, files.ca, client) == HTTP
            before = files.ca.read_bytes()
            write(trustme.CA(), files.ca.parent)  # of another authority
            later.ca.replace(accepted)
            old = tmp_path / "old.pem"
            old.write_bytes(before)
            assert await ask_http(server, old, later) == "ConnectError"
            assert await ask_grpc(server, old, later) == "UNAVAILABLE"
            assert await ask_http(server, files.ca, later) == HTTP
            assert await ask_grpc(server, files.ca, later) == GRPC
            assert await ask_http(server, files.ca, client) != HTTP
            assert await ask_grpc(server, files.ca, client) == "UNAVAILABLE"
            # A key that is not the certificate's: the last good files stay.
            files.key.write_bytes(client.key.read_bytes())
            assert await ask_http(server, files.ca, later) == HTTP
            assert await ask_grpc(server, files.ca, later) == GRPC

    asyncio.run(main())
    assert "was read again" in caplog.text
    assert "the earlier content of" in caplog.text


def test_what_is_wrong_with_the_files_is_reported(files: Files, tmp_path: Path) -> None:
    other = write(trustme.CA(), tmp_path / "other")
    missing, text = tmp_path / "missing.pem", tmp_path / "text.pem"
    text.write_text("no certificate")
    for certificate, key, client_ca, message in (
        (missing, files.key, None, "missing.pem cannot be read: No such file"),
        (files.certificate, missing, None, "missing.pem cannot be read: No such file"),
        (files.certificate, files.key, missing, "missing.pem cannot be read: No such file"),
        (files.certificate, other.key, None, "are not a certificate and its private key in PEM"),
        (text, files.key, None, "are not a certificate and its private key in PEM"),
        (files.certificate, files.key, text, "text.pem is not a certificate in PEM"),
    ):
        with pytest.raises(ConfigError, match=message):
            Tls(certificate, key, client_ca)


@pytest.mark.usefixtures("at_once")
def test_grpcio_gets_a_configuration_only_when_it_is_new(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """grpcio asks at each connection, and replaces the state of all handshakes for each new one."""
    given: list[Any] = []
    create = grpc.dynamic_ssl_server_credentials

    def observed(*arguments: Any, **options: Any) -> grpc.ServerCredentials:
        given.extend(arguments)
        return create(*arguments, **options)

    monkeypatch.setattr(grpc, "dynamic_ssl_server_credentials", observed)
    Tls(files.certificate, files.key).grpc_credentials()
    first, fetch = given
    assert [fetch(), fetch()] == [None, None]
    write(trustme.CA(), files.ca.parent)
    new = fetch()
    assert isinstance(new, type(first))
    assert new is not first
    assert [fetch(), fetch()] == [None, None]


@pytest.mark.soak
def test_simultaneous_handshakes_do_not_end_the_server(repository: Path, files: Files) -> None:
    """When grpcio got a configuration for every connection, the server crashed within seconds."""
    tls = ("--tls-certificate", str(files.certificate), "--tls-key", str(files.key))
    with running(str(repository / "grey"), *tls) as process:
        address = ("127.0.0.1", int(process.grpc.rpartition(":")[2]))
        end = time.monotonic() + 10

        def reconnect(_: int) -> None:
            while time.monotonic() < end:
                with (
                    contextlib.suppress(ConnectionResetError, BrokenPipeError),
                    socket.create_connection(address, timeout=5) as client,
                ):
                    client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
                    client.recv(100)

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(reconnect, range(16)))
        assert process.alive
        credentials = grpc.ssl_channel_credentials(files.ca.read_bytes())
        with grpc.secure_channel(process.grpc, credentials) as channel:
            channel.unary_unary(LIVE)(b"", timeout=10)
