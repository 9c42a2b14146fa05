from typing import Any

import numpy as np
import pytest

from keras_cnns_serve import errors
from keras_cnns_serve.transport.http.errors import STATUS_CODES
from tests.serve.conftest import Client, grey
from tests.serve.images.test_decoding import JPEG, huge_png

ZEROS = np.zeros((8, 8, 1), int).tolist()
PREDICT = "/v1/models/grey:predict"
CLASSIFY = "/v1/models/grey:classify-image"
GREY_130 = [
    {"label": "grey-5", "probability": 0.47224745},
    {"label": "grey-4", "probability": 0.40393463},
]


def test_home_lists_the_models_and_their_paths(client: Client) -> None:
    home = client.get("/").json()
    assert [model["name"] for model in home["models"]] == ["fragile", "grey", "nan", "two"]
    assert home["models"][1]["classify"] == CLASSIFY


@pytest.mark.parametrize("path", ["/", "/v1/models/", "/healthz/", "/nothing", "/openapi.json"])
def test_no_answer_has_the_clients_host(client: Client, path: str) -> None:
    response = client.request("GET", path, headers={"Host": "evil.example"})
    assert "evil.example" not in response.text + str(response.headers)


def test_models_are_listed(client: Client) -> None:
    assert client.get("/v1/models").json()["models"][1] == {
        "name": "grey",
        "versions": ["1"],
        "input": {"name": "images", "dtype": "uint8", "shape": [None, 8, 8, 1]},
        "outputs": ["probabilities"],
        "labels": 10,
    }


def test_health(client: Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}


AVAILABLE = {
    "version": "1",
    "state": "AVAILABLE",
    "status": {"error_code": "OK", "error_message": ""},
}
REFUSED = {
    "version": "2",
    "state": "END",
    "status": {
        "error_code": "FAILED_PRECONDITION",
        "error_message": "labels.txt does not match its checksum in model.json",
    },
}


@pytest.mark.parametrize(
    ("path", "states"),
    [
        ("/v1/models/grey", [REFUSED, AVAILABLE]),
        ("/v1/models/grey/versions/1", [AVAILABLE]),
        ("/v1/models/grey/versions/2", [REFUSED]),
    ],
)
def test_status(client: Client, path: str, states: list[Any]) -> None:
    assert client.get(path).json() == {"model_version_status": states}


@pytest.mark.parametrize("path", ["/v1/models/two/metadata", "/v1/models/two/versions/1/metadata"])
def test_metadata(client: Client, path: str) -> None:
    def info(name: str, dtype: str, *sizes: str) -> dict[str, Any]:
        shape = {"dim": [{"size": s, "name": ""} for s in sizes], "unknown_rank": False}
        return {"dtype": dtype, "tensor_shape": shape, "name": name}

    outputs = {
        "probabilities": info("probabilities", "DT_FLOAT", "-1", "10"),
        "logits": info("logits", "DT_FLOAT", "-1", "10"),
    }
    answer = client.get(path).json()
    engine = answer["metadata"].pop("engine")
    assert (engine["file"], engine["engine"]) == ("model.onnx", "onnxruntime")
    assert answer == {
        "model_spec": {"name": "two", "signature_name": "", "version": "1"},
        "metadata": {
            "signature_def": {
                "signature_def": {
                    "serving_default": {
                        "inputs": {"images": info("images", "DT_UINT8", "-1", "8", "8", "1")},
                        "outputs": outputs,
                        "method_name": "tensorflow/serving/predict",
                    },
                    "serving_bytes": {
                        "inputs": {"image_bytes": info("image_bytes", "DT_STRING", "-1")},
                        "outputs": outputs,
                        "method_name": "tensorflow/serving/predict",
                    },
                    "classify": {
                        "inputs": {"inputs": info("inputs", "DT_STRING", "-1")},
                        "outputs": {
                            "classes": info("classes", "DT_STRING", "-1", "10"),
                            "scores": info("scores", "DT_FLOAT", "-1", "10"),
                        },
                        "method_name": "tensorflow/serving/classify",
                    },
                }
            }
        },
    }


@pytest.mark.parametrize("path", [PREDICT, "/v1/models/grey/versions/1:predict"])
@pytest.mark.parametrize(
    ("body", "key"),
    [
        ({"instances": [ZEROS, ZEROS]}, "predictions"),
        ({"instances": [{"images": ZEROS}, {"images": ZEROS}]}, "predictions"),
        ({"inputs": [ZEROS, ZEROS], "signature_name": "serving_default"}, "outputs"),
        ({"inputs": {"images": [ZEROS, ZEROS]}}, "outputs"),
    ],
)
def test_predict(client: Client, path: str, body: Any, key: str) -> None:
    response = client.post(path, json=body)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert list(answer) == [key]
    assert np.shape(answer[key]) == (2, 10)
    assert np.argmax(answer[key], axis=1).tolist() == [0, 0]


def test_several_outputs_are_objects(client: Client) -> None:
    row = client.post("/v1/models/two:predict", json={"instances": [ZEROS]}).json()
    column = client.post("/v1/models/two:predict", json={"inputs": [ZEROS]}).json()
    assert list(row["predictions"][0]) == ["probabilities", "logits"]
    assert column["outputs"] == {k: [v] for k, v in row["predictions"][0].items()}


def test_nan_is_written_as_tensorflow_serving_writes_it(client: Client) -> None:
    response = client.post("/v1/models/nan:predict", json={"instances": [ZEROS]})
    assert response.text == '{"predictions":[[' + ",".join(["NaN"] * 10) + "]]}"
    labels = client.post("/v1/models/nan:classify-image", content=grey(0)).json()
    assert len(labels["predictions"][0]["labels"]) == 5


@pytest.mark.parametrize("encoding", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("content_type", [None, "image/png", "application/x-www-form-urlencoded"])
def test_an_image_as_the_body(client: Client, encoding: str, content_type: str | None) -> None:
    headers = {"content-type": content_type} if content_type else {}
    response = client.post(
        f"{CLASSIFY}?top_k=2", content=grey(130, encoding=encoding), headers=headers
    )
    assert response.status_code == 200
    assert response.json() == {"predictions": [{"labels": GREY_130}]}


def test_images_as_a_form(client: Client) -> None:
    files = [("image", ("a.png", grey(130))), ("image", ("b.png", grey(0)))]
    response = client.post(
        "/v1/models/grey/versions/1:classify-image?top_k=2", files=files, data={"note": "x"}
    )
    first, second = response.json()["predictions"]
    assert first == {"labels": GREY_130}
    assert second["labels"][0]["label"] == "grey-0"


def form(content: bytes, kind: str = "multipart/form-data; boundary=b") -> dict[str, Any]:
    return {"content": content, "headers": {"content-type": kind}}


MANY = [("f", (f"{i}.png", b"x")) for i in range(65)]


@pytest.mark.parametrize(
    ("path", "request_", "status", "message"),
    [
        (PREDICT, {"content": b"{"}, 400, "JSON Parse error"),
        (PREDICT, {"content": b""}, 400, "JSON Parse error"),
        (PREDICT, {"json": {}}, 400, "Missing 'inputs' or 'instances' key"),
        (PREDICT, {"json": {"instances": [ZEROS[:7]]}}, 400, "not of shape [1, 7, 8, 1]"),
        (PREDICT, {"json": {"instances": ZEROS}}, 400, "to send one image, put it in a list"),
        (PREDICT, {"json": {"instances": [[ZEROS, [1]]]}}, 400, "ragged"),
        (PREDICT, {"json": {"instances": [np.full((8, 8, 1), 0.5).tolist()]}}, 400, "not 0.5"),
        (PREDICT, {"json": {"instances": [np.full((8, 8, 1), 256).tolist()]}}, 400, "not 256"),
        (PREDICT, {"json": {"instances": [np.full((8, 8, 1), "a").tolist()]}}, 400, "not a string"),
        *(
            (PREDICT, {"json": body}, 400, "send an encoded image to :classify-image")
            for image in [{"b64": "/9g="}]
            for body in (
                {"instances": [image]},
                {"instances": [{"images": image}]},
                {"inputs": image},
                {"inputs": {"images": image}},
                {"inputs": {"images": [image]}},
            )
        ),
        (PREDICT, {"content": b'{"instances": [NaN]}'}, 400, "not of shape [1]"),
        (PREDICT, {"json": {"inputs": {"image": [ZEROS]}}}, 400, "must be images, not image"),
        (PREDICT, {"json": {"inputs": [ZEROS], "signature_name": "x"}}, 400, "there are serving_d"),
        (PREDICT, {"content": bytes(100_001)}, 413, "the body has more than 100,000 bytes"),
        ("/v1/models/gray:predict", {"json": {}}, 404, "Servable not found for request: Latest(g"),
        ("/v1/models/grey/versions/3:predict", {"json": {}}, 404, "it has 1"),
        ("/v1/models/grey/versions/2:predict", {"json": {}}, 503, "does not match its checksum"),
        ("/v1/models/grey/versions/one:predict", {"json": {}}, 404, "a version is an integer"),
        (f"/v1/models/grey/versions/{'9' * 5000}:predict", {}, 404, "a version is an integer"),
        ("/v1/models/grey/versions/²:predict", {"json": {}}, 404, "a version is an integer"),
        ("/v1/models/grey:explain", {"json": {}}, 400, "Malformed request: POST /v1/models"),
        ("/v1/models/:predict", {"json": {}}, 400, "Malformed request: POST /v1/models/:predict"),
        ("/models/grey:predict", {"json": {}}, 404, "is not served here; GET / lists the models"),
        ("/v2/models", {"json": {}}, 404, "is not served here"),
        ("/healthz", {"json": {}}, 405, "Method Not Allowed: POST /healthz; allowed here: "),
        (CLASSIFY, {"content": b""}, 415, "there is no image"),
        (CLASSIFY, {"json": {"instances": [ZEROS]}}, 415, "are not an image"),
        (CLASSIFY, {"content": b"hello"}, 415, "are not an image in JPEG, PNG, WebP, BMP or GIF"),
        (CLASSIFY, {"content": JPEG[:-1000]}, 400, "JPEG image is damaged or cut short"),
        (CLASSIFY, {"content": huge_png(50_000, 50_000)}, 413, "far more than 50,000,000 pixels"),
        (CLASSIFY, {"content": huge_png(9_000, 9_000)}, 413, "9,000 x 9,000 pixels, more than"),
        (CLASSIFY, {"content": bytes(100_001)}, 413, "the body has more than 100,000 bytes"),
        (CLASSIFY, {"files": {"f": ("f", bytes(100_000))}}, 413, "more than 100,000 bytes"),
        (CLASSIFY, {"files": {"f": ("f.png", b"x")}}, 415, "these 1 bytes are not an image"),
        (CLASSIFY, {"files": MANY}, 413, "a form can have at most 64 files, not 65"),
        (CLASSIFY, form(b"garbage"), 400, ""),
        (CLASSIFY, form(b"--b--\r\n"), 400, "the form has no file"),
        (CLASSIFY, form(b"", "multipart/form-data"), 400, "boundary"),
        (CLASSIFY + "?top_k=0", {"content": grey(1)}, 400, "top_k must be at least 1, not 0"),
        (CLASSIFY + "?top_k=-1", {"content": grey(1)}, 400, "top_k must be an integer"),
        (CLASSIFY + "?top_k=all", {"content": grey(1)}, 400, "top_k must be an integer"),
        ("/v1/models/gray:classify-image", {"content": grey(1)}, 404, "models are fragile, grey"),
    ],
)  # fmt: skip
def test_bad_requests_get_their_code_and_the_server_goes_on(
    client: Client, path: str, request_: dict[str, Any], status: int, message: str
) -> None:
    response = client.post(path, **request_)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["error"]
    assert message in response.json()["error"]
    assert client.post(f"{CLASSIFY}?top_k=2", content=grey(130)).json() == {
        "predictions": [{"labels": GREY_130}]
    }


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v1/models/gray", 404),
        ("GET", "/v1/models/grey/versions/7", 404),
        ("GET", "/v1/models/gray/metadata", 404),
        ("GET", "/v1/models/grey/versions/2/metadata", 503),
        ("GET", PREDICT, 405),
        ("DELETE", "/v1/models/grey", 405),
    ],
)
def test_other_methods_have_json_errors_too(
    client: Client, method: str, path: str, status: int
) -> None:
    response = client.request(method, path)
    assert response.status_code == status
    assert list(response.json()) == ["error"]


def test_a_body_without_a_length_is_counted_as_it_comes(client: Client) -> None:
    sent = 0

    async def chunks() -> Any:
        nonlocal sent
        for _ in range(1000):
            sent += 10_000
            yield bytes(10_000)

    assert client.post(PREDICT, content=chunks()).status_code == 413
    assert sent <= 220_000  # the limit, as much again that is thrown away, and a chunk


def test_what_nobody_expected_is_a_500_that_tells_nothing(client: Client) -> None:
    ones = np.full((8, 8, 1), 200).tolist()
    response = client.post("/v1/models/fragile:predict", json={"instances": [ones]})
    assert response.status_code == 500
    assert response.json() == {"error": "the server failed to answer; its log says why"}
    assert client.post("/v1/models/fragile:predict", json={"instances": [ZEROS]}).is_success


def test_every_error_of_the_core_has_a_code() -> None:
    def leaves(kind: type[errors.ServeError]) -> set[type[errors.ServeError]]:
        return {kind}.union(*map(leaves, kind.__subclasses__()))

    at_load = {errors.ServeError, errors.RepositoryError, errors.VersionRefusedError}
    core = {kind for kind in leaves(errors.ServeError) if kind.__module__ == errors.__name__}
    assert core - at_load == set(STATUS_CODES)
