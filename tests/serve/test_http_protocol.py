"""Whole answers on real connections: kept, closed, in order."""

import asyncio
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from http.client import HTTPResponse
from pathlib import Path

import pytest
import uvicorn

from keras_cnns_serve import body, http_protocol
from keras_cnns_serve.app import create_app
from keras_cnns_serve.asgi import App, FastRoute, Reply, Request
from keras_cnns_serve.dataplane import Dataplane
from tests.serve.conftest import grey, serving
from tests.serve.test_server import CLASSIFY, Process, running


def request(level: int, *headers: str, version: str = "1.1") -> bytes:
    """Asks for the label of a grey image, `grey-` and the level over 25.6."""
    body = grey(level)
    lines = [f"POST {CLASSIFY} HTTP/{version}", "Host: x", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Process]:
    with running(str(repository)) as process:
        yield process


def answer(connection: socket.socket) -> tuple[int, str | None, bytes]:
    """Status, the header Connection, and the body."""
    with HTTPResponse(connection) as response:
        response.begin()
        return response.status, response.headers["connection"], response.read()


def test_answers_on_one_connection_come_in_order(server: Process) -> None:
    levels = (10, 130, 250)
    with server.connect() as connection, connection.makefile("rb") as stream:
        connection.sendall(b"".join(map(request, levels)))  # before the first is answered
        for level in levels:
            length = 0
            while (line := stream.readline()) != b"\r\n":
                name, _, value = line.partition(b": ")
                length = int(value) if name == b"content-length" else length
            assert f'"label":"grey-{int(level / 25.6)}"'.encode() in stream.read(length)[:60]


@pytest.mark.parametrize(
    "asked", [request(130, "Connection: close"), request(130, version="1.0")], ids=["close", "1.0"]
)
def test_a_connection_is_closed_for_who_asks(server: Process, asked: bytes) -> None:
    with server.connect() as connection:
        connection.sendall(asked)
        status, kept, body = answer(connection)
        assert (status, kept) == (200, "close")
        assert b'"label":"grey-5"' in body[:60]
        assert connection.recv(1) == b""


def test_a_refusal_is_a_whole_answer_too(server: Process) -> None:
    with server.connect() as connection:
        connection.sendall(request(130).replace(CLASSIFY.encode(), b"/v1/models/no:classify-image"))
        status, _, body = answer(connection)
        assert status == 404
        assert b"Servable not found" in body
        connection.sendall(request(130))  # on the same connection
        assert answer(connection)[0] == 200


def test_a_head_without_end_is_refused(server: Process) -> None:
    with server.connect() as connection:
        connection.sendall(request(130, f"X-Long: {'x' * 70_000}"))
        assert answer(connection)[0] == 400


HEAD = b"POST /v1/models/grey:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", b""),
        (HEAD, b"HTTP/1.1 408 "),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + HEAD, b"HTTP/1.1 408 "),
        (HEAD + b"\r\n{", b"HTTP/1.1 408 "),
    ],
    ids=["nothing", "head", "second head", "body"],
)
def test_a_slow_client_is_not_waited_for(
    dataplane: Dataplane, monkeypatch: pytest.MonkeyPatch, sent: bytes, status: bytes
) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.1)
    monkeypatch.setattr(body, "BODY_SECONDS", 0.1)

    async def main() -> bytes:
        async with serving(create_app(dataplane), False) as (host, port, _), asyncio.timeout(10):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(sent)
            received = await reader.read()  # until it is closed
            writer.close()
            return received

    received = asyncio.run(main())
    last = received[received.rfind(b"HTTP/1.1") :] if received else b""
    assert last.startswith(status)
    assert last.count(b"connection: close") == (1 if status else 0)


def test_a_request_on_its_way_as_the_server_stops_is_answered(
    dataplane: Dataplane, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> bytes:
        async with (
            serving(create_app(dataplane), False) as (host, port, state),
            asyncio.timeout(10),
        ):
            reader, writer = await asyncio.open_connection(host, port)
            while not state.connections:
                await asyncio.sleep(0)
            monkeypatch.setattr(http_protocol.HttpProtocol, "last_answers", True)
            writer.write(request(130))  # not read yet by the server
            for connection in state.connections:
                connection.shutdown()
            received = await reader.read()
            writer.close()
            return received

    received = asyncio.run(main())
    assert b"connection: close" in received
    assert b"grey-5" in received


async def hang_up(app: App, pieces: Sequence[bytes]) -> None:
    """Sends the pieces to a server with the application, hangs up, and waits for the end."""
    config = uvicorn.Config(app, http=http_protocol.HttpProtocol, port=0, lifespan="off")
    config.log_config = None
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(20):
        while not server.started:
            await asyncio.sleep(0.01)
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        _, writer = await asyncio.open_connection(host, port)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.1)
        writer.close()
        ended = list(server.server_state.tasks)
        assert ended
        await asyncio.wait(ended, timeout=10)
    server.should_exit = True
    await serving


HEAD = b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"


@pytest.mark.parametrize(
    ("pieces", "gap"),
    [
        ([HEAD % 10 + bytes(10)], 0.0),
        ([HEAD % 10 + bytes(10)], 0.3),  # between the body and what may be cancelled
        ([HEAD % 150_000 + bytes(100), bytes(149_900)], 0.0),  # more than uvicorn reads ahead
        ([2 * (HEAD % 10 + bytes(10))], 0.0),  # two at once: the second never begins
    ],
    ids=["whole", "gap", "long", "pipelined"],
)
def test_who_hangs_up_costs_no_more(
    pieces: list[bytes], gap: float, caplog: pytest.LogCaptureFixture
) -> None:
    computed: list[bool] = []
    statuses: list[int] = []

    async def endpoint(request: Request) -> Reply:
        await request.body()
        await asyncio.sleep(gap)
        with request.watched():
            await asyncio.sleep(15)
        computed.append(True)
        return Reply(b"{}")

    async def otherwise(*_: object) -> None: ...

    def failed(error: Exception) -> Reply:
        raise error

    routes = [FastRoute("POST", re.compile("/x"), endpoint, failed)]
    app = App(
        routes, otherwise, 10**6, Counter(), lambda scope, status, seconds: statuses.append(status)
    )
    started = time.monotonic()
    asyncio.run(hang_up(app, pieces))
    assert set(statuses) == {499}
    assert time.monotonic() - started < 10
    assert not computed
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
