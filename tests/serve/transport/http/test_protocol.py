"""Whole answers on real connections: kept, closed, in order."""

import asyncio
import contextlib
import os
import re
import resource
import socket
import time
import tracemalloc
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from http.client import HTTPResponse
from pathlib import Path

import grpc
import httpx
import pytest
import uvicorn

from keras_cnns_serve.compose import create_app
from keras_cnns_serve.core.dataplane import Dataplane
from keras_cnns_serve.core.limits import Budget
from keras_cnns_serve.errors import InputTooLargeError
from keras_cnns_serve.transport.http import body
from keras_cnns_serve.transport.http import protocol as http_protocol
from keras_cnns_serve.transport.http.asgi import App, FastRoute, Reply, Request
from keras_cnns_serve.transport.http.protocol import Connections, HttpProtocol
from tests.serve.conftest import grey, serving
from tests.serve.processes import CLASSIFY, Process, running


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


def test_a_short_answer_comes_in_one_piece(server: Process) -> None:
    with server.connect() as connection:
        for _ in range(5):
            connection.sendall(request(130))
            head, _, body = connection.recv(2**16).partition(b"\r\n\r\n")
            assert b"content-length: %d\r\n" % len(body) in head


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
        async with serving(create_app(dataplane)) as (host, port, _), asyncio.timeout(10):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(sent)
            received = await reader.read()  # until it is closed
            writer.close()
            return received

    received = asyncio.run(main())
    last = received[received.rfind(b"HTTP/1.1") :] if received else b""
    assert last.startswith(status)
    assert last.count(b"connection: close") == (1 if status else 0)


def test_the_rest_of_a_refused_body_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "DRAIN_SECONDS", 0.1)
    refused = post(bytes(1000)).replace(b"POST", b"PUT")
    received = asyncio.run(talk(app_of(echo), [refused[:-900], refused[-900:-800]]))
    assert received.startswith(b"HTTP/1.1 405 ")
    assert received.count(b"HTTP/1.1 ") == 1


def test_a_request_on_its_way_as_the_server_stops_is_answered(
    dataplane: Dataplane, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> bytes:
        async with (
            serving(create_app(dataplane)) as (host, port, state),
            asyncio.timeout(10),
        ):
            reader, writer = await asyncio.open_connection(host, port)
            while not state.connections:
                await asyncio.sleep(0)
            monkeypatch.setattr(dataplane, "draining", True)
            writer.write(request(130))  # not read yet by the server
            for connection in state.connections:
                connection.shutdown()
            received = await reader.read()
            writer.close()
            return received

    received = asyncio.run(main())
    assert b"connection: close" in received
    assert b"grey-5" in received


def app_of(
    endpoint: Callable[[Request], Awaitable[Reply]], statuses: list[int] | None = None
) -> App:
    """Return an application with the endpoint at /x, which notes the statuses of its answers."""

    async def otherwise(*_: object) -> None: ...

    def error_reply(error: Exception) -> Reply:
        raise error

    routes = [FastRoute("POST", re.compile("/x"), endpoint, error_reply)]
    noted = [] if statuses is None else statuses
    budget = Budget(2**30)
    return App(
        routes, otherwise, 10**6, budget, Counter(), lambda _, status, __: noted.append(status)
    )


async def echo(request: Request) -> Reply:
    return Reply(b"<%s>" % await request.body())


async def slow_echo(request: Request) -> Reply:
    reply = await echo(request)
    with request.cancelled_on_disconnect():
        await asyncio.sleep(2.5 * http_protocol.PROBE_SECONDS)
    return reply


async def talk(app: App, pieces: Sequence[bytes], half_closed: bool = False) -> bytes:
    """Return all that a server answers to the pieces, until it has closed the connection."""
    async with serving(app) as (host, port, _), asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(host, port)
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.01)  # so that it is received alone
        if half_closed:
            writer.write_eof()
        received = await reader.read()
        writer.close()
        return received


def post(body: bytes, *headers: bytes) -> bytes:
    length = b"content-length: %d" % len(body)
    return b"\r\n".join([b"POST /x HTTP/1.1", b"host: x", *headers, length, b"", body])


CLOSING = post(b"last", b"connection: close")
OFFER = (  # as Java's HttpClient sends it
    b"Connection: Upgrade, HTTP2-Settings",
    b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
    b"Upgrade: h2c",
)
OFFERED = post(b"body", *OFFER)
CHUNKED = OFFERED.replace(b"content-length: 4", b"transfer-encoding: chunked")
CHUNKED = CHUNKED.replace(b"\r\nbody", b"\r\n4\r\nbody\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    ("pieces", "bodies"),
    [
        ([OFFERED, CLOSING], [b"<body>", b"<last>"]),
        ([OFFERED + OFFERED + CLOSING], [b"<body>", b"<body>", b"<last>"]),
        ([OFFERED[:-4], OFFERED[-4:] + CLOSING], [b"<body>", b"<last>"]),
        ([OFFERED[:-5], OFFERED[-5:-2], OFFERED[-2:], CLOSING], [b"<body>", b"<last>"]),
        ([OFFERED[:100], OFFERED[100:120], OFFERED[120:], CLOSING], [b"<body>", b"<last>"]),
        ([CHUNKED, CLOSING], [b"<body>", b"<last>"]),
        ([post(b"", *OFFER), CLOSING], [b"<>", b"<last>"]),
        ([post(b"Upgrade: h2c\r\n\r\n", *OFFER), CLOSING], [b"<Upgrade: h2c\r\n\r\n>", b"<last>"]),
        ([OFFERED.replace(b"h2c", b"websocket"), CLOSING], [b"<body>", b"<last>"]),
        ([post(bytes(100_000), *OFFER), CLOSING], [b"<%s>" % bytes(100_000), b"<last>"]),
        ([post(b"body", *OFFER, b"connection: close")], [b"<body>"]),
        ([OFFERED.replace(b"HTTP/1.1", b"HTTP/1.0")], [b"<body>"]),
    ],
    ids=[
        "one after the other",
        "pipelined",
        "head, then body",
        "split at the end of the head",
        "split within the head",
        "chunked",
        "no body",
        "a body like a head",
        "another protocol",
        "a long body",
        "the last request",
        "of HTTP/1.0",
    ],
)
def test_an_offer_to_upgrade_is_ignored(
    pieces: list[bytes], bodies: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    received = asyncio.run(talk(app_of(echo), pieces))
    assert received.count(b"HTTP/1.1 200 OK\r\n") == len(bodies)
    assert [answer.partition(b"HTTP/1.1")[0] for answer in received.split(b"\r\n\r\n<")[1:]] == [
        body[1:] for body in bodies
    ]
    assert not caplog.records


@pytest.mark.parametrize(
    ("pieces", "received"),
    [
        ([b"POST /x HTTP/1.1\r\nx: ", *[b"x" * 7000] * 10], b"HTTP/1.1 400 "),
        ([b"POST /x HTTP/1.1\r\n", *[b"x: %s\r\n" % (b"x" * 7000)] * 10], b"HTTP/1.1 400 "),
        ([post(b"", b"connection: close", b"x: " + b"x" * 70_000)], b"HTTP/1.1 400 "),
        ([post(b"", b"connection: close", *2000 * [b"x:"])], b"HTTP/1.1 400 "),
        ([post(b"", b"connection: close", *200 * [b"x:"])], b"HTTP/1.1 200 "),
        ([post(b"", b"connection: close", b"x: " + b"x" * 64_000)], b"HTTP/1.1 200 "),
        ([post(bytes(100_000), b"connection: close")], b"HTTP/1.1 200 "),
    ],
    ids=[
        "one header",
        "long headers",
        "at once",
        "too many headers",
        "many headers",
        "nearly too long",
        "a long body",
    ],
)
def test_the_length_of_a_head_is_limited(pieces: list[bytes], received: bytes) -> None:
    assert asyncio.run(talk(app_of(echo), pieces)).startswith(received)


def test_a_client_of_http_1_0_gets_no_interim_response() -> None:
    request = post(b"body", b"expect: 100-continue").replace(b"HTTP/1.1", b"HTTP/1.0")
    received = asyncio.run(talk(app_of(echo), [request]))
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert b"<body>" in received


CHUNKED_HEAD = post(b"").replace(b"content-length: 0", b"transfer-encoding: chunked")


@pytest.mark.parametrize(
    "framing",
    [
        b"4\r\nbody\r\n0\r\nx-checksum: 1\r\nexpect: 100-continue\r\n\r\n",
        b"4;name=value\r\nbody\r\n0;last\r\n\r\n",
        b"4\r\nbody\r\n0\r\n" + 500 * b"x: y\r\n" + b"\r\n",
        b"4\r\nbody\r\n0\r\nx: " + 60_000 * b"y" + b"\r\n\r\n",
        b"2;" + 60_000 * b"x" + b"\r\nbo\r\n2;" + 60_000 * b"x" + b"\r\ndy\r\n0\r\n\r\n",
    ],
    ids=["trailer", "extensions", "many fields", "long field", "long extensions"],
)
def test_trailers_and_chunk_extensions_are_ignored(framing: bytes) -> None:
    headers: list[object] = []

    async def endpoint(request: Request) -> Reply:
        reply = await echo(request)
        headers.append(request.scope["headers"])
        return reply

    received = asyncio.run(talk(app_of(endpoint), [CHUNKED_HEAD + framing, CLOSING]))
    assert received.count(b"HTTP/1.1 ") == received.count(b" 200 OK\r\n") == 2
    assert b"<body>" in received
    assert received.endswith(b"<last>")
    assert headers[0] == [(b"host", b"x"), (b"transfer-encoding", b"chunked")]


@pytest.mark.parametrize(
    ("beginning", "piece"),
    [
        (b"4\r\nbody\r\n0\r\n", b"x: y\r\n"),
        (b"4\r\nbody\r\n0\r\nx: ", b"y"),
        (b"4\r\nbody\r\n0\r\n", b"y"),
        (b"4\r\nbody\r\n4;", b"y"),
        (b"4;x=", b"y"),
    ],
    ids=["fields", "value", "name", "extension", "first extension"],
)
@pytest.mark.parametrize("refused", [False, True])
def test_a_trailer_or_chunk_extension_without_end_ends_the_connection(
    beginning: bytes, piece: bytes, refused: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether the request waits for its body, or has its answer already."""
    head = CHUNKED_HEAD.replace(b"POST", b"PUT") if refused else CHUNKED_HEAD
    pieces = 10**7 // len(piece) * piece
    answers: list[bytes] = []

    async def main() -> int:
        async with serving(app_of(echo)) as (host, port, state), asyncio.timeout(20):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(head)
            if refused:
                answers.append(await reader.readuntil(b"\r\n\r\n"))
            tracemalloc.start()
            try:
                writer.write(beginning)
                for begin in range(0, len(pieces), 100_000):
                    if not state.connections and begin:
                        break
                    writer.write(pieces[begin : begin + 100_000])
                    await asyncio.sleep(0)
                    # What this client has not written yet is in the same process.
                    while writer.transport.get_write_buffer_size() and state.connections:
                        await asyncio.sleep(0)
                else:
                    pytest.fail("all was accepted")
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            with contextlib.suppress(ConnectionError):
                answers.append(await reader.read())
            writer.close()
            while state.connections or state.tasks:
                await asyncio.sleep(0.01)
            return peak

    assert asyncio.run(main()) < 3 * 10**6
    assert b"".join(answers).count(b"HTTP/1.1 ") <= 1
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["refused 127.0.0.1: The trailer of the request is too long."]


def test_who_sends_too_long_a_trailer_has_an_answer() -> None:
    trailer = b"4\r\nbody\r\n0\r\nx: " + 70_000 * b"y"
    received = asyncio.run(talk(app_of(echo), [CHUNKED_HEAD + trailer]))
    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.endswith(b"The trailer of the request is too long.")
    # After the answers to the requests before it, and once it is this one's turn.
    received = asyncio.run(talk(app_of(slow_echo), [post(b"body") + CHUNKED_HEAD + trailer]))
    assert received.count(b"HTTP/1.1 ") == 2
    assert received.index(b"<body>") < received.index(b"HTTP/1.1 400 ")


async def refuse(request: Request) -> Reply:
    try:
        return await echo(request)
    except InputTooLargeError:
        return Reply(b"refused", 413)


@pytest.mark.parametrize("kept", [b"keep-alive", b"close"])
@pytest.mark.parametrize("trickles", [False, True], ids=["silent", "trickles"])
def test_clients_whose_bodies_are_refused_hold_no_connections(
    monkeypatch: pytest.MonkeyPatch, kept: bytes, trickles: bool
) -> None:
    for module in (body, http_protocol):
        monkeypatch.setattr(module, "DRAIN_SECONDS", 0.2)
    refused = post(b"x", b"connection: " + kept).replace(b"h: 1", b"h: 1000001")

    async def main() -> None:
        async with serving(app_of(refuse)) as (host, port, state), asyncio.timeout(10):

            async def client() -> bytes:
                reader, writer = await asyncio.open_connection(host, port)
                writer.write(refused)
                reading = asyncio.create_task(reader.read())
                while not (await asyncio.wait([reading], timeout=0.02))[0]:
                    if trickles:
                        writer.write(b"x")
                writer.close()
                with contextlib.suppress(ConnectionError):
                    return reading.result()
                return b""

            begun = time.monotonic()
            answers = await asyncio.gather(*(client() for _ in range(50)))
            assert time.monotonic() - begun < 5
            if not trickles:  # bytes on their way may reset the connection
                assert all(each.startswith(b"HTTP/1.1 413 ") for each in answers)
            assert not state.connections
            assert not state.tasks

    asyncio.run(main())


def test_who_sends_all_of_a_refused_body_keeps_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (body, http_protocol):
        monkeypatch.setattr(module, "DRAIN_SECONDS", 0.2)

    async def main() -> None:
        async with serving(app_of(refuse)) as (host, port, _), asyncio.timeout(10):
            reader, writer = await asyncio.open_connection(host, port)
            rest = 900_000  # is sent before the answer, and after it
            for method, status in ((b"POST", b"413"), (b"PUT", b"405")):
                writer.write(post(bytes(1_000_001)).replace(b"POST", method)[:-rest])
                if method == b"PUT":
                    head = await reader.readuntil(b"\r\n\r\n")
                writer.write(bytes(rest))
                if method == b"POST":
                    head = await reader.readuntil(b"\r\n\r\n")
                assert head.split()[1] == status
                length = re.search(rb"content-length: (\d+)", head)
                assert length
                await reader.readexactly(int(length[1]))
                await asyncio.sleep(0.3)
            writer.write(CLOSING)
            assert (await reader.read()).endswith(b"<last>")
            writer.close()

    asyncio.run(main())


def test_a_body_does_not_count_for_the_next_head() -> None:
    second = CLOSING[:20]
    pieces = [post(bytes(200_000)) + second, CLOSING[20:]]
    received = asyncio.run(talk(app_of(echo), pieces))
    assert received.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert received.endswith(b"<last>")


def test_bytes_after_the_last_request_do_no_harm() -> None:
    received = asyncio.run(talk(app_of(slow_echo), [CLOSING + b"\r\n" + OFFERED]))
    assert received.count(b"HTTP/1.1 ") == 1
    assert received.endswith(b"<last>")


@pytest.mark.parametrize("endpoint", [echo, slow_echo])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_half_closed_client_has_its_answer(
    endpoint: Callable[[Request], Awaitable[Reply]], count: int, version: bytes
) -> None:
    pieces = [post(b"body").replace(b"1.1", version)]
    if version == b"1.1":
        pieces *= count
    received = asyncio.run(talk(app_of(endpoint), [b"".join(pieces)], half_closed=True))
    assert received.count(b" 200 OK\r\n") == len(pieces)
    assert received.endswith(b"\r\n\r\n<body>")
    interim = received.count(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert (interim > 0) == (endpoint is slow_echo and version == b"1.1")


def test_a_half_closed_client_that_offered_an_upgrade_has_its_answer() -> None:
    received = asyncio.run(talk(app_of(slow_echo), [OFFERED], half_closed=True))
    assert received.startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert received.count(b" 200 OK\r\n") == 1
    assert received.endswith(b"\r\n\r\n<body>")


def test_a_client_that_half_closes_at_once_has_its_answer() -> None:
    """Its request and its end arrive in the same turn of the event loop."""

    def ask(address: tuple[str, int]) -> bytes:
        received = b""
        with socket.create_connection(address, timeout=10) as client:
            client.sendall(post(b"body"))
            client.shutdown(socket.SHUT_WR)
            while part := client.recv(1000):
                received += part
        return received

    async def main() -> list[bytes]:
        async with serving(app_of(echo)) as (host, port, _), asyncio.timeout(20):
            return [await asyncio.to_thread(ask, (host, port)) for _ in range(50)]

    assert [answer[-6:] for answer in asyncio.run(main())] == [b"<body>"] * 50


@pytest.mark.parametrize(
    "bad", [b"POST /x HTTP/1.1\r\nx: " + b"x" * 70_000, b"\x00 nonsense\r\n\r\n"]
)
@pytest.mark.parametrize("count", [1, 2])
def test_a_refused_head_leaves_the_answers_before_it(bad: bytes, count: int) -> None:
    pieces = [post(b"body") * count, bad]
    received = asyncio.run(talk(app_of(slow_echo), pieces))
    assert received.count(b"HTTP/1.1 200 OK\r\n") == count
    assert received.index(b"<body>") < received.index(b"HTTP/1.1 400 Bad Request\r\n")
    assert received.count(b"HTTP/1.1 ") == count + 1


def test_a_half_sent_request_is_no_request() -> None:
    statuses: list[int] = []
    assert asyncio.run(talk(app_of(echo, statuses), [CLOSING[:-1]], half_closed=True)) == b""
    assert statuses == [499]


@pytest.mark.parametrize("kept", [b"keep-alive", b"close"])
@pytest.mark.parametrize(
    ("reads", "rate"), [(0, 10**4), (10**5, 10**9)], ids=["nothing", "too slowly"]
)
def test_a_client_that_hardly_reads_its_answer_is_dropped(
    monkeypatch: pytest.MonkeyPatch, kept: bytes, reads: int, rate: int
) -> None:
    """It has a fifth of a second for the bytes that it should read in this time."""
    monkeypatch.setattr(http_protocol, "MIN_BYTES_PER_SECOND", rate)
    set_timeout(monkeypatch, 0.2)

    async def long(request: Request) -> Reply:
        return Reply(bytes(10**8))

    async def main() -> None:
        async with serving(app_of(long)) as (host, port, state), asyncio.timeout(10):
            with socket.create_connection((host, port)) as client:
                client.sendall(post(b"", b"connection: " + kept))
                while not state.connections:
                    await asyncio.sleep(0.01)
                while state.connections or state.tasks:
                    await asyncio.sleep(0.01)
                    client.recv(reads)

    asyncio.run(main())


def set_timeout(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(http_protocol, "Connections", partial(Connections, seconds))


def test_a_client_that_reads_slowly_has_all_of_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    set_timeout(monkeypatch, 0.4)
    size = 2 * 10**7

    async def long(request: Request) -> Reply:
        return Reply(bytes(size))

    async def main() -> int:
        async with serving(app_of(long)) as (host, port, _), asyncio.timeout(20):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(CLOSING)
            await reader.readuntil(b"\r\n\r\n")
            received = 0
            while piece := await reader.read(10**6):
                received += len(piece)
                await asyncio.sleep(0.02)
            writer.close()
            return received

    assert asyncio.run(main()) == size


def test_requests_that_come_at_once_are_not_all_parsed_before_the_first_is_answered() -> None:
    count, longest = 3000, 0

    async def main() -> bytes:
        async def endpoint(request: Request) -> Reply:
            nonlocal longest
            (connection,) = state.connections
            assert isinstance(connection, HttpProtocol)
            longest = max(longest, len(connection.pipeline))
            return await echo(request)

        async with serving(app_of(endpoint)) as (host, port, state), asyncio.timeout(20):
            reader, writer = await asyncio.open_connection(host, port)
            requests = [post(b"%d" % number) for number in range(count)]
            writer.write(b"".join([*requests, CLOSING]))
            received = await reader.read()
            writer.close()
            return received

    bodies = re.findall(rb"<(\w+)>", asyncio.run(main()))
    assert bodies == [*(b"%d" % number for number in range(count)), b"last"]
    assert 0 < longest < 50


def test_requests_that_wait_are_left_to_the_system() -> None:
    """The answer of the first watches for the end of its client, and so reads on."""

    async def main() -> int:
        kept = 0
        async with serving(app_of(slow_echo)) as (host, port, state), asyncio.timeout(20):
            with socket.create_connection((host, port)) as client:
                client.setblocking(False)
                client.send(2 * post(b"body"))
                while not state.tasks:
                    await asyncio.sleep(0.01)
                (connection,) = state.connections
                assert isinstance(connection, HttpProtocol)
                while connection.pipeline:
                    with contextlib.suppress(BlockingIOError):
                        client.send(10_000 * post(b""))
                    await asyncio.sleep(0)
                    kept = max(kept, len(connection._unparsed))
            while state.connections or state.tasks:
                await asyncio.sleep(0.01)
        return kept

    assert 0 < asyncio.run(main()) < 10**6


def test_a_body_of_tiny_chunks_takes_turns_with_other_connections() -> None:
    head = CLOSING.partition(b"content-length")[0] + b"transfer-encoding: chunked\r\n\r\n"
    ends: list[str] = []

    async def main() -> bytes:
        async with serving(app_of(echo)) as (host, port, _), asyncio.timeout(20):

            async def send(request: bytes, name: str) -> bytes:
                reader, writer = await asyncio.open_connection(host, port)
                writer.write(request)
                received = await reader.read()
                writer.close()
                ends.append(name)
                return received

            chunks = b"1\r\nx\r\n" * 100_000
            received, _ = await asyncio.gather(
                send(head + chunks + b"0\r\n\r\n", "chunks"), send(CLOSING, "short")
            )
            return received

    assert asyncio.run(main()).endswith(b"\r\n\r\n<%s>" % (b"x" * 100_000))
    assert ends == ["short", "chunks"]


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"\x00 nonsense\r\n\r\n", "Invalid method encountered"),
        (b"GET /x HTTP/1.1\r\n: y\r\n\r\n", "Invalid header token"),
        (b"GET /\xff HTTP/1.1\r\n\r\n", "Invalid char in url path"),
        (b"x" * 10, "Invalid method encountered"),
        (OFFERED.replace(b"content-length: 4", b"transfer-encoding: x"), "Request has invalid"),
        (b"GET /x HTTP/1.1\r\n\r\n", "it has no header Host"),
        (b"GET http://x/ HTTP/1.1\r\n\r\n", "it has no header Host"),
        (b"GET /x HTTP/1.1\r\nHost: x\r\nhost: x\r\n\r\n", "it has more than one header Host"),
        (b"GET /x HTTP/1.0\r\nHost: x\r\nhost: y\r\n\r\n", "it has more than one header Host"),
        (OFFERED.replace(b"host: x", b"y: x"), "it has no header Host"),
        *(
            (b"GET /x HTTP/1.1\r\nHost: %s\r\n\r\n" % host, "its header Host is not a host")
            for host in (
                b"a b",
                b"x, y",
                b"x/y",
                b"u@x",
                b"x:80:80",
                b"x:y",
                b"[::1",
                b"%zz",
                b"\xe4",
            )
        ),
    ],
)
def test_a_malformed_request_is_logged_with_its_client(
    sent: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    received = asyncio.run(talk(app_of(echo), [sent]))
    assert received.startswith(b"HTTP/1.1 400 ")
    assert reason.encode() in received
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith(f"refused 127.0.0.1: The request is malformed: {reason}")
    assert record.__dict__["client"] == "127.0.0.1"


def test_valid_hosts_are_accepted() -> None:
    """HTTP/1.0 has no such header; an address of IPv6 is in brackets; a host may be empty."""
    hosts = (
        b"x",
        b"x:8080",
        b"127.0.0.1:80",
        b"[::1]:80",
        b"a-b_c.example.",
        b"%20",
        b"x:",
        b"",
        b"x\t",
    )
    sent = [post(b"").replace(b"host: x", b"Host: %s" % host) for host in hosts]
    sent.append(post(b"").replace(b"1.1\r\nhost: x", b"1.0"))
    received = asyncio.run(talk(app_of(echo), [b"".join(sent)]))
    assert received.count(b"HTTP/1.1 ") == received.count(b" 200 OK\r\n") == len(sent)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "This port serves HTTP/1.1, and not HTTP/2; gRPC"),
        (
            b"\x16\x03\x01\x00\xf4\x01\x00\x00\xf0\x03\x03",
            "This port serves HTTP without TLS; https",
        ),
    ],
    ids=["HTTP/2", "TLS"],
)
def test_another_protocol_is_named(
    sent: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As gRPC clients send it to the HTTP port, and browsers to https without TLS."""
    received = asyncio.run(talk(app_of(echo), [sent]))
    assert received.startswith(b"HTTP/1.1 400 ")
    assert reason.encode() in received
    assert caplog.messages[0].startswith(f"refused 127.0.0.1: {reason}")


async def hang_up(app: App, pieces: Sequence[bytes]) -> None:
    """Sends the pieces to a server with the application, hangs up, and waits for the end."""
    config = uvicorn.Config(app, http=HttpProtocol, port=0, lifespan="off")
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
        with request.cancelled_on_disconnect():
            await asyncio.sleep(15)
        computed.append(True)
        return Reply(b"{}")

    app = app_of(endpoint, statuses)
    started = time.monotonic()
    asyncio.run(hang_up(app, pieces))
    assert set(statuses) == {499}
    assert time.monotonic() - started < 10
    assert not computed
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_server_without_free_files_goes_on_when_it_has_some(repository: Path) -> None:
    with running(str(repository / "grey")) as process:
        number = process._popen.pid
        files = len(list(Path(f"/proc/{number}/fd").iterdir()))
        resource.prlimit(number, resource.RLIMIT_NOFILE, (files + 10, files + 10))
        ports = [process.port, int(process.grpc.rpartition(":")[2])]
        with contextlib.ExitStack() as stack:
            for port in 30 * ports:
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            used = cpu_seconds(number)
            time.sleep(0.5)
            assert cpu_seconds(number) - used < 0.25  # it does not try again all the time
        for _ in range(50):  # until both ports have noticed that the clients are gone
            with contextlib.suppress(httpx.TransportError):
                assert process.classify() == "grey-5"
                break
            time.sleep(0.2)
        assert process.classify() == "grey-5"
        with grpc.insecure_channel(process.grpc) as channel:
            grpc.channel_ready_future(channel).result(timeout=10)
        assert len(process.warnings) < 10


def cpu_seconds(process: int) -> float:
    """The user and system time of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize(
    "line",
    [
        b"CONNECT x:80",
        b"GET http://x",
        b"POST http://x?/healthz",
        b"GET http://x:99999999/",
        b"GET http://[::1/",
    ],
)
def test_a_target_without_a_path_is_refused(line: bytes, caplog: pytest.LogCaptureFixture) -> None:
    received = asyncio.run(talk(app_of(echo), [line + b" HTTP/1.1\r\nhost: x\r\n\r\n"]))
    assert received.startswith(b"HTTP/1.1 400 ")
    assert caplog.messages == [
        "refused 127.0.0.1: The request is malformed: its target has no path"
    ]
