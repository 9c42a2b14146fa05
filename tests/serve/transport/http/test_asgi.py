import asyncio
import gzip
import json
import logging
import re
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from keras_cnns_serve.compose import create_app
from keras_cnns_serve.core.batching import BatchOptions
from keras_cnns_serve.core.dataplane import Dataplane
from keras_cnns_serve.core.limits import Budget, Claim
from keras_cnns_serve.core.prediction import Target
from keras_cnns_serve.core.servable import Options
from keras_cnns_serve.transport.http import asgi
from keras_cnns_serve.transport.http.asgi import App
from keras_cnns_serve.transport.http.errors import HANDLERS
from tests.serve.conftest import Client, grey, serving

PREDICT = "/v1/models/grey:predict"
CLASSIFY = "/v1/models/grey:classify-image"
BODY = json.dumps({"instances": np.full((2, 8, 8, 1), 130).tolist()}).encode()


def packed(content: bytes, encoding: str = "gzip") -> dict[str, Any]:
    return {"content": content, "headers": {"content-encoding": encoding}}


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (gzip.compress(BODY), "gzip"),
        (gzip.compress(BODY[:99]) + gzip.compress(BODY[99:]), "gzip"),  # two members
        (gzip.compress(BODY), "X-GZIP"),
        (zlib.compress(BODY), "deflate"),
        (BODY, "identity"),
    ],
    ids=["gzip", "two members", "X-GZIP", "deflate", "identity"],  # gzip writes the time
)
def test_a_packed_body_is_unpacked(client: Client, content: bytes, encoding: str) -> None:
    response = client.post(PREDICT, **packed(content, encoding))
    assert np.argmax(response.json()["predictions"], axis=1).tolist() == [5, 5]


def test_a_packed_image_is_unpacked(client: Client) -> None:
    response = client.post(CLASSIFY, **packed(gzip.compress(grey(130))))
    assert response.json()["predictions"][0]["labels"][0]["label"] == "grey-5"


def test_the_number_of_fields_in_a_query_is_limited(client: Client) -> None:
    """Parsing a query of 64 KB of tiny fields would hold up all clients."""
    accepted = client.post(f"{CLASSIFY}?{63 * 'a=b&'}top_k=1", content=grey(130))
    assert len(accepted.json()["predictions"][0]["labels"]) == 1
    refused = client.post(f"{CLASSIFY}?{64 * 'a=b&'}top_k=1", content=grey(130))
    assert refused.status_code == 400
    assert refused.json() == {"error": "the query has more than 64 fields"}
    assert client.post(f"{CLASSIFY}?{20_000 * '&'}", content=grey(130)).status_code == 400


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        (
            packed(gzip.compress(bytes(10**7))),
            413,
            "the body has more than 100,000 bytes after decompression",
        ),
        (packed(gzip.compress(BODY)[:-9]), 400, "the compressed body is truncated"),
        (packed(BODY), 400, "the body cannot be decompressed"),
        (packed(BODY, "br"), 415, "Content-Encoding 'br' is not supported; use gzip or deflate"),
        ({"content": BODY, "headers": {"x-request-timeout": "soon"}}, 400, "a number of seconds"),
        ({"content": BODY, "headers": {"x-request-timeout": "-1"}}, 400, "a number of seconds"),
        ({"content": BODY, "headers": {"x-request-timeout": "0"}}, 504, "deadline passed"),
    ],
)
def test_bad_packing_and_deadlines_have_their_codes(
    client: Client, request_: dict[str, Any], status: int, message: str
) -> None:
    response = client.post(PREDICT, **request_)
    assert response.status_code == status
    assert message in response.json()["error"]


def test_the_answer_says_where_the_time_went(client: Client) -> None:
    timing = client.post(CLASSIFY, content=grey(130)).headers["server-timing"]
    parts = dict(part.split(";dur=") for part in timing.split(", "))
    assert list(parts) == ["queue", "decode", "compute"]
    assert all(float(milliseconds) >= 0 for milliseconds in parts.values())
    assert float(parts["compute"]) > 0


def scope(path: str) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": [(b"host", b"x")],
    }


def test_a_client_that_hangs_up_is_not_computed(dataplane: Dataplane) -> None:
    """The engine is kept busy by another request; the one that hung up costs no run."""
    finished: list[int] = []
    app: App = create_app(
        dataplane, on_response=lambda scope, status, seconds: finished.append(status)
    )
    batcher = dataplane.manager.models["grey"].newest.batcher

    async def main() -> None:
        messages = asyncio.Queue[dict[str, Any]]()
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        batcher._free -= 2  # nobody runs until it is given back
        try:
            request = asyncio.create_task(app(scope(CLASSIFY), messages.get, send))
            await messages.put({"type": "http.request", "body": grey(130), "more_body": False})
            async with asyncio.timeout(10):
                while not batcher.waiting:
                    await asyncio.sleep(0.001)
                await messages.put({"type": "http.disconnect"})
                await request
        finally:
            batcher._free += 2
        assert sent == []

    before = dataplane.statistics(Target("grey"))[0].inferences
    asyncio.run(main())
    assert finished == [499]
    asyncio.run(dataplane.classify_images(Target("grey"), [grey(1)]))
    assert dataplane.statistics(Target("grey"))[0].inferences == before + 1


def test_overload_gets_429_and_lateness_504(repository: Path) -> None:
    """One engine that is busy, one request that may wait."""
    options = Options(batch=BatchOptions(max_queue=1))
    dataplane = Dataplane.open(repository / "grey", options=options)
    client = Client(create_app(dataplane))
    batcher = dataplane.manager.models["grey"].newest.batcher
    batcher._free = 0  # nobody runs until it is given back
    with ThreadPoolExecutor(1) as pool:
        late = {"x-request-timeout": "0.5"}
        waiting = pool.submit(client.post, CLASSIFY, content=grey(1), headers=late)
        while not batcher.waiting:
            time.sleep(0.001)
        started = time.monotonic()
        refused = client.post(CLASSIFY, content=grey(1))
        assert time.monotonic() - started < 0.4  # at once, not when the other's time is over
        assert waiting.result().status_code == 504
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json() == {"error": "1 requests are already waiting, the limit of --max-queue"}
    batcher._free = 1
    assert client.post(CLASSIFY, content=grey(1)).is_success
    assert dataplane.statistics(Target("grey"))[0].inferences == 1
    dataplane.close(5)


def test_what_was_not_expected_is_logged(
    dataplane: Dataplane, caplog: pytest.LogCaptureFixture
) -> None:
    body = json.dumps({"instances": [np.full((8, 8, 1), 200).tolist()]}).encode()
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    app = create_app(dataplane)
    with caplog.at_level(logging.ERROR):
        asyncio.run(app(scope("/v1/models/fragile:predict"), receive, send))
    (record,) = caplog.records
    assert record.exc_info is not None
    assert "out of data bounds" in str(record.exc_info[1])
    assert sent[0]["status"] == 500


@pytest.mark.parametrize(
    ("path", "length", "status"),
    [
        (CLASSIFY, len(grey(130)), b"200"),
        (CLASSIFY, 100_001, b"413"),
        ("/v1/models/none:classify-image", 100, b"404"),
        ("/v1/models/grey:nothing", 100, b"400"),
        ("/v2/repository/index", 100_001, b"413"),
    ],
)
def test_a_client_that_asks_first_sends_only_a_body_that_is_wanted(
    dataplane: Dataplane, path: str, length: int, status: bytes
) -> None:
    """As curl does with more than a megabyte: Expect: 100-continue."""

    async def main() -> None:
        app = create_app(dataplane, max_body_bytes=100_000)
        async with asyncio.timeout(20), serving(app) as (host, port, _):
            reader, writer = await asyncio.open_connection(host, port)
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n"
            writer.write(head.encode() + b"Expect: 100-continue\r\n\r\n")
            if status == b"200":
                assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
                writer.write(grey(130))
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.split()[1] == status
            # Nobody knows whether the body follows nevertheless.
            assert (b"connection: close" in answer) == (status != b"200")
            if status != b"200":
                await reader.read()
            writer.close()

    asyncio.run(main())


async def length(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


def app_of_starlette(**options: Any) -> App:
    routes = [Route("/length", length, methods=["POST"])]
    starlette = Starlette(routes=routes, exception_handlers=HANDLERS)
    return App([], starlette, 1000, Budget(2**30), Counter(), **options)


def test_a_body_for_starlette_has_the_time_of_a_request() -> None:
    head = b"POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n"

    async def main() -> None:
        async with serving(app_of_starlette(timeout=0.3)) as (host, port, _), asyncio.timeout(10):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(head + b"body")
            assert (await reader.readuntil(b"\r\n\r\n4")).split()[1] == b"200"
            writer.write(head + b"bod")
            answer = await reader.readuntil(b"so far")
            assert answer.split()[1] == b"504"
            assert b"the request's deadline passed before its body arrived: 3 bytes" in answer
            writer.close()

    asyncio.run(main())


def test_of_a_repeated_header_the_first_counts() -> None:
    """For what bypasses Starlette, and for its bodies; a parser may accept Content-Length twice."""
    repeated = {**scope("/length"), "headers": [(b"x", b"1"), (b"x", b"2")]}
    match = re.match("", "")
    assert match
    asked = asgi.Request(repeated, match, 10, no_body, Claim(Budget(1)))
    assert asked.header(b"x") == "1"
    for lengths, status in ((["4", "2000"], 200), (["2000", "4"], 413)):
        sent: list[Any] = []

        async def send(message: Any, sent: list[Any] = sent) -> None:
            sent.append(message)

        headers = [(b"content-length", value.encode()) for value in lengths]
        asyncio.run(app_of_starlette()({**scope("/length"), "headers": headers}, no_body, send))
        assert sent[0]["status"] == status


async def no_body() -> Any:
    return {"type": "http.request", "body": b"", "more_body": False}
