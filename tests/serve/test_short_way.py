"""Requests past the parser: every answer is the one that the long way gives, and nothing leaks."""

import asyncio
import contextlib
import io
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from uvicorn.server import ServerState

from keras_cnns_serve import short_way
from keras_cnns_serve.access_log import AccessLog
from keras_cnns_serve.app import create_app
from keras_cnns_serve.asgi import App, FastRoute, Reply, Request
from keras_cnns_serve.dataplane import Dataplane
from keras_cnns_serve.http_protocol import HttpProtocol
from keras_cnns_serve.short_way import KEPT_HEADS, ShortWay
from tests.serve.conftest import grey, serving

CLASSIFY = "/v1/models/grey:classify-image"
PREDICT = "/v1/models/grey:predict"
VALUES = json.dumps({"instances": np.full((2, 8, 8, 1), 130).tolist()}).encode()


def request(
    body: bytes, path: str = CLASSIFY, *headers: str, method: str = "POST", version: str = "1.1"
) -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def talk(app: App, packets: Sequence[bytes], short: bool) -> bytes:
    """What a server answers to packets, each sent when what came before has its answer."""
    async with serving(app, short) as (host, port, state):
        reader, writer = await asyncio.open_connection(host, port)
        received = b""
        for packet in packets:
            writer.write(packet)
            await at_rest(state)
            with contextlib.suppress(TimeoutError):
                while True:
                    async with asyncio.timeout(0.02):
                        piece = await reader.read(2**16)
                    if not piece:
                        break
                    received += piece
        writer.close()
        return received


async def at_rest(state: ServerState) -> None:
    """Until the server has seen what was sent and works no more; a second if a body is to come."""
    for _ in range(10):
        await asyncio.sleep(0)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1):
            while state.tasks:
                await asyncio.sleep(0.005)


def settled(answer: bytes) -> bytes:
    """Without what is another each time."""
    answer = re.sub(rb"date: [^\r]*\r\n", b"", answer)
    return re.sub(rb"dur=[0-9.]+", b"dur=", answer)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The bodies of the requests that went the short way."""
    bodies: list[bytes] = []
    begin: Callable[..., None] = HttpProtocol._begin_short

    def noted(self: HttpProtocol, known: Any, app: App, body: bytes) -> None:
        bodies.append(body)
        begin(self, known, app, body)

    monkeypatch.setattr(HttpProtocol, "_begin_short", noted)
    return bodies


FORM = b"--b\r\nContent-Disposition: form-data; name=i; filename=i.png\r\n\r\n" + grey(9)
FORM += b"\r\n--b--\r\n"
PLAIN = request(grey(130))
LONG = request(bytes(150_000))
CASES: dict[str, tuple[list[bytes], int]] = {  # packets, how many of them go the short way
    "the same again": ([PLAIN] * 4, 3),
    "other lengths": ([request(grey(n)) for n in (1, 100)] + [request(b"no image")], 2),
    "other cases of letters": ([PLAIN.replace(b"Content-Length", b"content-length")] * 2, 1),
    "the length twice": ([PLAIN.replace(b"Host: x", b"Host: x\r\nContent-Length: 3")] * 2, 0),
    "two bodies": ([PLAIN.replace(b"Host: x", b"Transfer-Encoding: chunked")] * 2, 0),
    "chunks": (
        [
            PLAIN.partition(b"\r\n\r\n")[0].replace(b"Content-Length: ", b"X: ")
            + b"\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        ]
        * 2,
        0,
    ),
    "queries": ([request(grey(9), f"{CLASSIFY}?top_k={k}") for k in (1, 2, 0, 1, 2, 0)], 3),
    "values": ([request(VALUES, PREDICT)] * 2, 1),
    "forms": ([request(FORM, CLASSIFY, "Content-Type: multipart/form-data; boundary=b")] * 2, 1),
    "deadlines": ([request(grey(9), CLASSIFY, "X-Request-Timeout: 0")] * 2, 1),
    "packed badly": ([request(b"x", CLASSIFY, "Content-Encoding: gzip")] * 2, 1),
    "no model": ([request(b"x", "/v1/models/none:predict")] * 2, 1),
    "no path": ([request(b"x", "/nothing")] * 2, 0),
    "another method": ([request(b"", PREDICT, method="GET")] * 2, 0),
    "kept alive on purpose": ([request(grey(9), CLASSIFY, "Connection: keep-alive")] * 2, 1),
    "closed for a proxy": ([request(grey(9), CLASSIFY, "Proxy-Connection: close")], 0),
    "closed on purpose": ([request(grey(9), CLASSIFY, "Connection: close")], 0),
    "older": ([request(grey(9), version="1.0")], 0),
    "waits for 100": ([request(grey(9), CLASSIFY, "Expect: 100-continue")] * 2, 0),
    "by a proxy": ([request(grey(9), CLASSIFY, "X-Forwarded-For: 1.2.3.4")] * 2, 0),
    "three in a packet": ([PLAIN, PLAIN * 3, PLAIN], 1),
    "in two packets": ([PLAIN, PLAIN[:99], PLAIN[99:], PLAIN[:-5], PLAIN[-5:], PLAIN], 1),
    "after an empty line": ([PLAIN, b"\r\n", PLAIN], 1),
    "without a body": ([request(b"")] * 2, 1),
    # The bytes of a body are nobody's request, though they look like one.
    "within a body": ([PLAIN, request(PLAIN)[: -len(PLAIN)], PLAIN, PLAIN], 1),
    "within a body that was refused": ([PLAIN, LONG[:200], PLAIN, PLAIN], 0),
    "nonsense": ([PLAIN, b"POST nonsense\r\n\r\n"], 0),
}


@pytest.mark.parametrize("case", CASES)
def test_the_answer_is_the_same(taken: list[bytes], dataplane: Dataplane, case: str) -> None:
    packets, count = CASES[case]
    app = create_app(dataplane, max_body_bytes=100_000)
    by_parser = asyncio.run(talk(app, packets, short=False))
    assert by_parser.startswith(b"HTTP/1.1 ")
    assert taken == []
    assert settled(asyncio.run(talk(app, packets, short=True))) == settled(by_parser)
    assert len(taken) == count


def test_each_line_of_the_log_has_its_own_length(dataplane: Dataplane, taken: list[bytes]) -> None:
    stream = io.StringIO()
    app = create_app(dataplane, finished=AccessLog(stream))
    bodies = [grey(1), grey(2) + b" ", grey(3) + b"  "]
    asyncio.run(talk(app, [request(body) for body in bodies], short=True))
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["request_bytes"] for line in lines] == [len(body) for body in bodies]
    assert {line["client"] for line in lines} == {"127.0.0.1"}
    assert taken == bodies[1:]


def test_what_is_remembered_is_bounded(dataplane: Dataplane) -> None:
    way = ShortWay(create_app(dataplane))
    scope = {"http_version": "1.1", "method": "POST", "path": CLASSIFY, "headers": []}
    for number in range(2 * KEPT_HEADS + 9):
        way.keep(b"%d" % number, scope)
    assert len(way._known) == 9
    long = request(b"x", CLASSIFY, f"X-Long: {'x' * short_way.LONGEST_KEPT}")
    assert short_way.split(long) is None
    assert short_way.split(request(b"x")) is not None


def endless(statuses: list[int], delay: float) -> App:
    """An application whose endpoint takes so many seconds."""

    async def endpoint(request: Request) -> Reply:
        await request.body()
        with request.watched():
            await asyncio.sleep(delay)
        return Reply(b"{}")

    async def otherwise(*_: object) -> None: ...

    def failed(error: Exception) -> Reply:
        raise error

    routes = [FastRoute("POST", re.compile("/x"), endpoint, failed)]
    return App(
        routes, otherwise, 10**6, Counter(), lambda scope, status, seconds: statuses.append(status)
    )


@pytest.mark.parametrize("behind", [b"", request(b"later", "/x")], ids=["alone", "pipelined"])
def test_who_hangs_up_costs_no_more(taken: list[bytes], behind: bytes) -> None:
    statuses: list[int] = []

    async def main() -> None:
        async with serving(endless(statuses, 15)) as (host, port, state):
            for _ in range(2):  # the first is read by the parser
                _, writer = await asyncio.open_connection(host, port)
                writer.write(request(b"now", "/x"))
                await asyncio.sleep(0.1)
                writer.write(behind)
                await asyncio.sleep(0.1)
                writer.close()
            await asyncio.wait(list(state.tasks), timeout=10)
            assert not state.tasks

    started = time.monotonic()
    asyncio.run(main())
    assert set(statuses) == {499}
    assert taken == [b"now"]
    assert time.monotonic() - started < 10


def test_a_fault_of_ours_closes_the_connection(
    taken: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    statuses: list[int] = []

    async def endpoint(request: Request) -> Reply:
        if len(await request.body()) > 3:
            raise ValueError("the endpoint's")
        return Reply(b"{}")

    def failed(error: Exception) -> Reply:
        raise RuntimeError("its translator's") from error

    async def otherwise(*_: object) -> None: ...

    async def main() -> None:
        routes = [FastRoute("POST", re.compile("/x"), endpoint, failed)]
        app = App(
            routes, otherwise, 10**6, Counter(), lambda _, status, __: statuses.append(status)
        )
        async with serving(app) as (host, port, state):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(request(b"x", "/x"))
            await reader.readuntil(b"{}")
            writer.write(request(b"long", "/x"))
            assert await reader.read() == b""
            writer.close()
            assert not state.tasks

    asyncio.run(main())
    assert taken == [b"long"]
    assert statuses == [200, 500]
    assert "its translator's" in caplog.text


def test_a_connection_that_nobody_uses_is_closed(taken: list[bytes]) -> None:
    async def main() -> float:
        app = endless([], 0.01)
        async with serving(app, timeout_keep_alive=1) as (host, port, _):
            reader, writer = await asyncio.open_connection(host, port)
            for pause in (0, 0.7, 0.7):
                await asyncio.sleep(pause)
                writer.write(request(b"x", "/x"))
                await reader.readuntil(b"{}")
            started = time.monotonic()
            assert await reader.read() == b""
            writer.close()
            return time.monotonic() - started

    assert 0.8 < asyncio.run(main()) < 3
    assert len(taken) == 2


def test_the_last_answer_closes(taken: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> bytes:
        async with serving(endless([], 0.2)) as (host, port, state):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(request(b"x", "/x"))
            await reader.readuntil(b"{}")
            writer.write(request(b"x", "/x"))
            await asyncio.sleep(0.1)
            monkeypatch.setattr(HttpProtocol, "last_answers", True)
            for connection in state.connections:
                connection.shutdown()
            received = await reader.read()
            writer.close()
            return received

    assert b"connection: close\r\n\r\n{}" in asyncio.run(main())
    assert taken == [b"x"]
