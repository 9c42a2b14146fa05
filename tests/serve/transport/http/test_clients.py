"""Clients that people use, by the bytes that they send: recordings.py."""

import asyncio
import re

import pytest
from starlette.types import Message, Receive, Scope, Send

from keras_cnns_serve.compose import create_app
from keras_cnns_serve.core.dataplane import Dataplane
from tests.serve.conftest import serving
from tests.serve.transport.http.recordings import IMAGE, RECORDINGS


@pytest.mark.parametrize("client", RECORDINGS)
def test_a_recorded_request_is_built_and_answered(dataplane: Dataplane, client: str) -> None:
    """On one connection: a second request, after which the client half-closes the connection."""
    pieces = RECORDINGS[client]
    app = create_app(dataplane)
    scopes: list[Scope] = []
    bodies: list[bytes] = []

    async def observed(scope: Scope, receive: Receive, send: Send) -> None:
        async def observed_receive() -> Message:
            message = await receive()
            bodies[-1] += message.get("body", b"")
            return message

        scopes.append(scope)
        bodies.append(b"")
        await app(scope, observed_receive, send)

    async def main() -> list[bytes]:
        answers = []
        async with serving(observed) as (host, port, _):
            reader, writer = await asyncio.open_connection(host, port)
            if b"Connection: close\r\n" not in pieces[0]:
                await write(writer)
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)\r\n", head)
                assert length
                answers.append(head + await reader.readexactly(int(length[1])))
            await write(writer)
            writer.write_eof()
            answers.append(await reader.read())
            writer.close()
        return answers

    async def write(writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.01)  # so that the server receives each piece alone

    answers = asyncio.run(main())
    line, *headers = pieces[0].partition(b"\r\n\r\n")[0].split(b"\r\n")
    method, path, _ = line.split()
    expected = b'"AVAILABLE"' if method == b"GET" else b'[{"label":"grey-5",'
    for answer in answers:
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.count(b"HTTP/1.1 ") == 1
        assert expected in answer
    names_and_values = [header.split(b": ", 1) for header in headers]
    built = [(name.lower(), value) for name, value in names_and_values]
    for scope in scopes:
        assert (scope["method"].encode(), scope["raw_path"]) == (method, path)
        assert scope["http_version"] == "1.1"
        assert scope["headers"] == [each for each in built if each[0] != b"upgrade"]
    assert bodies == len(answers) * [b"" if method == b"GET" else IMAGE]
