"""Whole answers on real connections: kept, closed, in order."""

import socket
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path

import pytest

from tests.serve.conftest import grey
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
