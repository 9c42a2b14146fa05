import contextlib
import io
import json
from typing import Any

from keras_cnns_serve.access_log import AccessLog
from keras_cnns_serve.app import create_app
from keras_cnns_serve.dataplane import Dataplane
from tests.serve.conftest import Client, grey


def test_a_call_has_the_name_of_its_status() -> None:
    stream = io.StringIO()
    log = AccessLog(stream)
    for client in ("127.0.0.1", "::1"):
        log.called("/a.Service/Method", client, "OK", 0.002)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["client"] for line in lines] == ["127.0.0.1", "::1"]
    assert (lines[0]["method"], lines[0]["path"]) == ("gRPC", "/a.Service/Method")
    assert (lines[0]["status"], lines[0]["milliseconds"]) == ("OK", 2.0)


def test_a_line_of_json_for_every_answer(dataplane: Dataplane) -> None:
    stream = io.StringIO()
    client = Client(create_app(dataplane, finished=AccessLog(stream)))
    client.post("/v1/models/grey:classify-image?top_k=2", content=grey(0))
    client.get("/healthz")
    client.request("GET", "/v1/models/grey:predict")
    client.request("POST", "/nothing", headers={"x-request-id": 'a"b', "user-agent": "me"})
    lines: list[dict[str, Any]] = [json.loads(line) for line in stream.getvalue().splitlines()]
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


def test_a_log_that_cannot_be_written_costs_no_answer(dataplane: Dataplane) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        log = AccessLog(full)
        client = Client(create_app(dataplane, finished=log))
        assert client.get("/healthz").status_code == 200
        log.called("/a.Service/Method", "127.0.0.1", "OK", 0.002)
        with contextlib.suppress(OSError):
            full.close()
