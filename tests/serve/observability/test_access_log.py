import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest

from keras_cnns_serve.compose import Server, create_app
from keras_cnns_serve.core.dataplane import Dataplane
from keras_cnns_serve.observability.access_log import AccessLog
from keras_cnns_serve.options import ServerOptions
from tests.serve.conftest import Client, grey


@pytest.fixture(autouse=True)
def level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "keras_cnns_serve.access")


def logged(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The lines of the access log."""
    records = [record for record in caplog.records if record.name == "keras_cnns_serve.access"]
    return [json.loads(record.getMessage()) for record in records]


def test_a_call_has_the_name_of_its_status(caplog: pytest.LogCaptureFixture) -> None:
    log = AccessLog()
    for client in ("127.0.0.1", "::1"):
        log.log_grpc("/a.Service/Method", client, "OK", 0.002)
    lines = logged(caplog)
    assert [line["client"] for line in lines] == ["127.0.0.1", "::1"]
    assert list(lines[0]) == ["time", "client", "method", "path", "status", "milliseconds"]
    assert (lines[0]["method"], lines[0]["path"]) == ("gRPC", "/a.Service/Method")
    assert (lines[0]["status"], lines[0]["milliseconds"]) == ("OK", 2.0)


def test_a_line_of_json_for_every_answer(
    dataplane: Dataplane, caplog: pytest.LogCaptureFixture
) -> None:
    client = Client(create_app(dataplane, on_response=AccessLog().log_http))
    client.post("/v1/models/grey:classify-image?top_k=2", content=grey(0))
    client.get("/healthz")
    client.request("GET", "/v1/models/grey:predict")
    client.request("POST", "/nothing", headers={"x-request-id": 'a"b', "user-agent": "me"})
    lines = logged(caplog)
    kept = [(line["method"], line["path"], line["status"]) for line in lines]
    assert kept == [
        ("POST", "/v1/models/grey:classify-image", 200),
        ("GET", "/healthz", 200),
        ("GET", "/v1/models/grey:predict", 405),
        ("POST", "/nothing", 404),
    ]
    assert lines[0]["query"] == "top_k=2"
    assert lines[0]["request_bytes"] == len(grey(0))
    assert lines[0]["milliseconds"] > 0
    assert (lines[3]["request_id"], lines[3]["user_agent"]) == ('a"b', "me")


def test_the_client_is_who_connects_and_not_whom_a_header_names(
    repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = ServerOptions(repository, port=0, grpc_port="off", grace=0, access_log=True)

    async def main() -> None:
        headers = {"X-Forwarded-For": "203.0.113.9", "Forwarded": "for=203.0.113.9"}
        async with Server(options) as server, httpx.AsyncClient() as client:
            await client.get(f"{server.url}/healthz", headers=headers)

    asyncio.run(main())
    assert [line["client"] for line in logged(caplog)] == ["127.0.0.1"]
