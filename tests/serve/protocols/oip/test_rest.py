"""The Open Inference Protocol over HTTP, byte by byte; its clients are in test_clients.py."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_cnns_serve.compose import create_app
from keras_cnns_serve.core.dataplane import Dataplane
from tests.serve.conftest import Client, grey

INFER = "/v2/models/grey/infer"
PIXELS = bytes([130]) * 64
LENGTH = "Inference-Header-Content-Length"


def tensor(**changes: Any) -> dict[str, Any]:
    given = {"name": "images", "datatype": "UINT8", "shape": [1, 8, 8, 1], "data": list(PIXELS)}
    return {key: value for key, value in (given | changes).items() if value is not None}


def raw(size: Any = 64, **changes: Any) -> dict[str, Any]:
    return tensor(data=None, parameters={"binary_data_size": size}, **changes)


def binary(document: Any, content: bytes = PIXELS, length: Any = None) -> dict[str, Any]:
    """A request whose JSON is followed by bytes."""
    head = json.dumps(document).encode()
    return {"content": head + content, "headers": {LENGTH: str(length or len(head))}}


def encoded(text: str, **parameters: Any) -> dict[str, Any]:
    image = {"name": "image_bytes", "datatype": "BYTES", "shape": [1], "data": [text]}
    return {"inputs": [image | {"parameters": parameters}]}


BASE64 = base64.b64encode(grey(130)).decode()


@pytest.mark.parametrize("path", [INFER, "/v2/models/grey/versions/1/infer"])
@pytest.mark.parametrize(
    "request_",
    [
        {"json": {"inputs": [tensor()]}},
        {"json": {"inputs": [tensor(data=np.full((1, 8, 8, 1), 130).tolist())]}},
        {"json": {"inputs": [tensor()], "outputs": [{"name": "probabilities"}], "parameters": {}}},
        {"json": {"inputs": [tensor() | {"parameters": None}], "id": None, "outputs": None}},
        {"json": {"inputs": [tensor(parameters={"content_type": "np", "headers": None})]}},
        {"json": {"inputs": [tensor()], "parameters": None, "outputs": []}},
        {"json": {"inputs": [tensor()], "parameters": {"timeout": None, "priority": None}}},
        {"json": encoded(BASE64[:76] + "\n" + BASE64[76:], content_type="base64")},
        {"json": encoded(BASE64.replace("+", "-").rstrip("="), content_type="base64")},
        binary({"inputs": [raw()]}),
        binary({"inputs": [tensor()]}, b""),
        {"content": PIXELS, "headers": {LENGTH: "0"}},
        binary(
            {"inputs": [raw(len(grey(130)) + 4, datatype="BYTES", shape=[1])]},
            len(grey(130)).to_bytes(4, "little") + grey(130),
        ),
        {
            "json": {
                "inputs": [
                    {
                        "name": "image_bytes",
                        "datatype": "BYTES",
                        "shape": [1],
                        "data": [base64.b64encode(grey(130)).decode()],
                        "parameters": {"content_type": "base64"},
                    }
                ]
            }
        },
    ],
)
def test_infer(client: Client, path: str, request_: dict[str, Any]) -> None:
    response = client.post(path, **request_)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["server-timing"].startswith("queue;dur=")
    answer = response.json()
    assert (answer["model_name"], answer["model_version"]) == ("grey", "1")
    (output,) = answer["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == (
        "probabilities",
        "FP32",
        [1, 10],
    )
    assert np.argmax(output["data"]) == 5


@pytest.mark.parametrize(
    "wish",
    [
        {"parameters": {"binary_data_output": True}},
        {"outputs": [{"name": "probabilities", "parameters": {"binary_data": True}}]},
    ],
)
def test_raw_outputs(client: Client, wish: dict[str, Any]) -> None:
    response = client.post(INFER, json={"id": "x", "inputs": [tensor()]} | wish)
    assert response.headers["content-type"] == "application/octet-stream"
    length = int(response.headers[LENGTH])
    document = json.loads(response.content[:length])
    assert document["id"] == "x"
    assert document["outputs"][0]["parameters"] == {"binary_data_size": 40}
    values = np.frombuffer(response.content[length:], np.float32)
    assert values.argmax() == 5


def test_nan(client: Client) -> None:
    response = client.post("/v2/models/nan/infer", json={"inputs": [tensor(data=[0] * 64)]})
    assert np.isnan(json.loads(response.text)["outputs"][0]["data"]).all()


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        ({"content": b""}, 400, "JSON Parse error"),
        ({"content": b"{"}, 400, "JSON Parse error"),
        ({"content": b"\xff\xfe"}, 400, "JSON Parse error"),
        ({"content": b"[" * 1000}, 400, "JSON Parse error"),
        ({"content": b"[" * 50_000}, 413, "the JSON has 50,000 lists"),
        ({"json": []}, 400, "the body must be an object"),
        ({"json": {}}, 400, "'inputs' must be a list, not None"),
        ({"json": encoded(BASE64)}, 400, 'needs the parameter "content_type": "base64"'),
        ({"json": {"inputs": []}}, 400, "at least one tensor"),
        ({"json": {"inputs": [1]}}, 400, "an input must be an object, not 1"),
        ({"json": {"inputs": [tensor(name=7)]}}, 400, "'name' of an input must be a string"),
        ({"json": {"inputs": [tensor(), tensor()]}}, 400, "'images' is given twice"),
        (
            {"json": {"inputs": [tensor(), tensor(name="x")]}},
            400,
            "the only input must be images, not images, x",
        ),
        ({"json": {"inputs": [tensor(data=None)]}}, 400, "'data' must be a list, not None"),
        ({"json": {"inputs": [tensor(shape="all")]}}, 400, "'shape' must be a list"),
        ({"json": {"inputs": [tensor(shape=[1, 8, 8.0, 1])]}}, 400, "an integer of at least 0"),
        ({"json": {"inputs": [tensor(shape=[-1, 8, 8, 1])]}}, 400, "an integer of at least 0"),
        ({"json": {"inputs": [tensor(shape=[2**62] * 4)]}}, 413, "has more than"),
        ({"json": {"inputs": [tensor(shape=[10**30, 1])]}}, 400, ""),
        (
            {"json": {"inputs": [tensor(shape=[2, 8, 8, 1])]}},
            400,
            "64 values, but its shape needs 128",
        ),
        ({"json": {"inputs": [tensor(datatype="uint8")]}}, 400, "the datatype 'uint8'"),
        ({"json": {"inputs": [tensor(datatype=["UINT8"])]}}, 400, "the datatype ['UINT8']"),
        (
            {"json": {"inputs": [tensor(datatype="FP32", data=[0.5] * 64)]}},
            400,
            "not 0.5; the graph itself normalises",
        ),
        (
            {"json": {"inputs": [tensor(data=["a"] * 64)]}},
            400,
            "values of type str; values of the datatype UINT8 must have the type int",
        ),
        ({"json": {"inputs": [tensor(data=[300] * 64)]}}, 400, "values outside the range of UINT8"),
        ({"json": {"inputs": [tensor(parameters=[])]}}, 400, "'parameters' of images must be"),
        ({"json": {"inputs": [tensor()], "id": 7}}, 400, "'id' of the request must be a string"),
        ({"json": {"inputs": [tensor()], "outputs": [{}]}}, 400, "'name' of an output must be"),
        ({"json": {"inputs": [tensor()], "parameters": {"timeout": "1"}}}, 400, "timeout must be"),
        ({"json": {"inputs": [tensor()], "parameters": {"timeout": -1}}}, 400, "timeout must be"),
        ({"json": {"inputs": [tensor()], "parameters": {"priority": 1.5}}}, 400, "priority must"),
        (
            {
                "json": {
                    "inputs": [tensor()],
                    "outputs": [{"name": "probabilities", "parameters": {"classification": -1}}],
                }
            },
            400,
            "the parameter classification must be",
        ),
        (binary({"inputs": [raw()]}, PIXELS[:10]), 400, "ends at byte 64 of the binary data"),
        (binary({"inputs": [raw()]}, PIXELS * 2), 400, "64 bytes follow the last input"),
        (binary({"inputs": [raw(-64)]}), 400, "binary_data_size must be an integer of at least 0"),
        (binary({"inputs": [raw("64")]}), 400, "binary_data_size must be an integer"),
        (binary({"inputs": [raw(2**63)]}), 400, "of the binary data, which has only 64"),
        (binary({"inputs": [raw(10)]}, PIXELS[:10]), 400, "has 10 bytes, but its shape needs 64"),
        (
            binary({"inputs": [raw()]}, length=100_000),
            400,
            "must be at most the length of the body",
        ),
        (binary({"inputs": [raw()]}, length="-5"), 400, "must be at most the length of the body"),
        (binary({"inputs": [raw()]}, length="many"), 400, "must be at most the length of the body"),
        (
            binary({"inputs": [raw()]}, length="9" * 5000),
            400,
            "must be at most the length of the body",
        ),
        (binary({"inputs": [raw()]}, length=20), 400, "JSON Parse error"),
        (
            binary({"inputs": [raw(8, datatype="BYTES", shape=[1])]}, b"\xff\xff\xff\xffabcd"),
            400,
            "truncated",
        ),
        ({"content": PIXELS[1:], "headers": {LENGTH: "0"}}, 400, "63 bytes, but its shape needs 0"),
        ({"content": bytes(100_001)}, 413, "the body has more than 100,000 bytes"),
        ({"json": {"inputs": [tensor()]}, "headers": {"X-Request-Timeout": "x"}}, 400, "seconds"),
        ({"json": {"inputs": [tensor()]}, "headers": {"X-Request-Timeout": "0"}}, 504, ""),
    ],
)
def test_what_is_wrong_is_said(
    client: Client, request_: dict[str, Any], status: int, message: str
) -> None:
    response = client.post(INFER, **request_)
    assert (response.status_code, message in response.json()["error"]) == (status, True), (
        response.text
    )


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v2/models/gray/infer", 404),
        ("POST", "/v2/models/grey/versions/3/infer", 404),
        ("POST", "/v2/models/grey/versions/one/infer", 404),
        ("GET", INFER, 405),
        ("GET", "/v2/models/gray", 404),
        ("GET", "/v2/models/gray/ready", 404),
        ("GET", "/v2/models/gray/config", 404),
        ("GET", "/v2/models/gray/stats", 404),
        ("GET", "/v2/nothing", 404),
        ("POST", "/v2/repository/models/grey/unload", 403),
    ],
)
def test_what_is_not_there(client: Client, method: str, path: str, status: int) -> None:
    response = client.request(method, path)
    assert response.status_code == status
    assert response.json()["error"]


def test_the_index_of_what_is_ready(client: Client) -> None:
    every = client.post("/v2/repository/index").json()
    ready = client.post("/v2/repository/index", json={"ready": True}).json()
    assert [entry for entry in every if entry["state"] == "READY"] == ready
    assert client.post("/v2/repository/index", json=[]).status_code == 400
    assert client.post("/v2/repository/index", json={"ready": 1}).status_code == 400


def test_a_server_that_stops_is_live_and_not_ready(repository: Path) -> None:
    dataplane = Dataplane.open(repository / "grey")
    client = Client(create_app(dataplane))
    assert client.get("/v2/health/ready").status_code == 200
    dataplane.stop()
    assert client.get("/v2/health/live").status_code == 200
    for path in ("/v2/health/ready", "/v2/models/grey/ready"):
        response = client.get(path)
        assert response.status_code == 503
        assert response.json()["ready"] is False
    dataplane.close(5)
