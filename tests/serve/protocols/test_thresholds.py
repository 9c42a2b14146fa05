"""Thresholds of the probability in requests; oip/test_clients.py tests them with a client."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from keras_cnns_serve.compose import create_app
from keras_cnns_serve.core.dataplane import Dataplane
from tests.serve.conftest import CONFIDENCE, Client, graph, grey, publish, write_version

SURE, UNSURE = grey(0), grey(130)  # probabilities 0.87 and 0.47
CLASSIFY = "/v1/models/grey:classify-image?top_k=2"
INFER = "/v2/models/grey/infer"


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """grey/1 with thresholds, plain/1 without, named/1 with a class "unknown", nan/1."""
    root = tmp_path_factory.mktemp("models")
    write_version(root / "grey" / "1", confidence=CONFIDENCE)
    write_version(root / "plain" / "1", confidence=None)
    labels = "".join(f"{label}\n" for label in ["unknown", *range(1, 10)]).encode()
    publish(root / "named" / "1", {"labels.txt": labels})
    write_version(root / "nan" / "1", graph(nan=True))
    dataplane = Dataplane.open(root)
    yield Client(create_app(dataplane, max_body_bytes=100_000))
    dataplane.close(5)


def form(*images: bytes) -> dict[str, Any]:
    return {"files": [("image", (f"{n}.png", image)) for n, image in enumerate(images)]}


@pytest.mark.parametrize(
    ("query", "threshold"),
    [
        ("min_probability=0.5", 0.5),
        ("min_probability=.5", 0.5),
        ("min_probability=5e-1", 0.5),
        ("min_accuracy=0.95", 0.5),
        ("min_accuracy=0.980", 0.7),
    ],
)
def test_below_the_threshold_the_answer_is_unknown(
    asked: Client, query: str, threshold: float
) -> None:
    without = asked.post(CLASSIFY, **form(SURE, UNSURE)).json()
    answer = asked.post(f"{CLASSIFY}&{query}", **form(SURE, UNSURE)).json()
    assert list(without) == ["predictions"]
    assert [set(each) for each in without["predictions"]] == [{"labels"}] * 2
    assert answer["min_probability"] == pytest.approx(threshold)
    sure, unsure = answer["predictions"]
    assert (sure["label"], sure["unknown"]) == ("grey-0", False)
    assert (unsure["label"], unsure["unknown"]) == (None, True)
    # The most probable labels are in the answer as without a threshold.
    assert [each["labels"] for each in (sure, unsure)] == [
        each["labels"] for each in without["predictions"]
    ]


def test_thresholds_are_inclusive(asked: Client) -> None:
    def unknown(threshold: float | str) -> bool:
        response = asked.post(f"{CLASSIFY}&min_probability={threshold}", content=UNSURE)
        return bool(response.json()["predictions"][0]["unknown"])

    text = asked.post(CLASSIFY, content=UNSURE).text
    printed = json.loads(text)["predictions"][0]["labels"][0]["probability"]
    assert not unknown(printed)
    assert unknown(printed + 1e-6)
    assert not unknown(0)
    assert unknown(1)


def test_a_class_that_is_called_unknown_is_a_class(asked: Client) -> None:
    (named,) = asked.post(
        "/v1/models/named:classify-image?min_probability=0.5", content=SURE
    ).json()["predictions"]
    assert (named["label"], named["unknown"]) == ("unknown", False)


def test_a_probability_that_is_not_a_number_is_unknown(asked: Client) -> None:
    response = asked.post("/v1/models/nan:classify-image?min_probability=0", content=SURE)
    assert response.json()["predictions"][0]["unknown"]


TABLE = "no threshold for the accuracy 0.97; it has thresholds for the accuracies 0.95, 0.98"


@pytest.mark.parametrize(
    ("model", "parameters", "message"),
    [
        ("grey", {"min_probability": "a lot"}, "min_probability must be a number from 0 to 1, not"),
        ("grey", {"min_probability": ""}, "min_probability must be a number from 0 to 1, not"),
        ("grey", {"min_probability": "1.5"}, "must be a number from 0 to 1, not 1.5"),
        ("grey", {"min_probability": "-0.1"}, "must be a number from 0 to 1, not -0.1"),
        ("grey", {"min_probability": "nan"}, "must be a number from 0 to 1, not nan"),
        ("grey", {"min_probability": "inf"}, "must be a number from 0 to 1, not inf"),
        ("grey", {"min_probability": "1_0"}, "must be a number from 0 to 1, not 1_0"),
        ("grey", {"min_probability": "9" * 500}, f"must be a number from 0 to 1, not {'9' * 40}"),
        ("grey", {"min_accuracy": "98 %"}, "min_accuracy must be a number from 0 to 1, not 98 %"),
        ("grey", {"min_accuracy": "0.97"}, TABLE),
        ("plain", {"min_accuracy": "0.95"}, "its model.json has none for any accuracy; give min_"),
        (
            "grey",
            {"min_accuracy": "0.95", "min_probability": "0.5"},
            "give min_probability or min_accuracy, not both",
        ),
    ],
)
def test_wrong_values_are_refused(
    asked: Client, model: str, parameters: dict[str, str], message: str
) -> None:
    path = f"/v1/models/{model}:classify-image"
    response = asked.request("POST", path, params=parameters, content=SURE)
    assert response.status_code == 400, response.text
    assert message in response.json()["error"]
    body = {"inputs": [tensor()], "parameters": parameters}
    response = asked.post(f"/v2/models/{model}/infer", json=body)
    assert response.status_code == 400, response.text
    assert message in response.json()["error"]


def tensor() -> dict[str, Any]:
    pixels = [0] * 64 + [130] * 64
    return {"name": "images", "datatype": "UINT8", "shape": [2, 8, 8, 1], "data": pixels}


@pytest.mark.parametrize("outputs", [[], [{"name": "probabilities"}]])
@pytest.mark.parametrize(
    "parameters", [{"min_probability": 0.5}, {"min_accuracy": 0.98}, {"min_probability": "0.5"}]
)
def test_a_parameter_of_the_open_inference_protocol(
    asked: Client, outputs: list[Any], parameters: dict[str, Any]
) -> None:
    body = {"inputs": [tensor()], "outputs": outputs}
    without = asked.post(INFER, json=body).json()
    answer = asked.post(INFER, json=body | {"parameters": parameters}).json()
    *others, unknown = answer["outputs"]
    assert others == without["outputs"]
    assert unknown == {"name": "unknown", "datatype": "BOOL", "shape": [2], "data": [False, True]}


@pytest.mark.parametrize("value", [True, 2, -1, [0.5], {"x": 1}])
def test_other_types_of_parameters_are_refused(asked: Client, value: Any) -> None:
    body = {"inputs": [tensor()], "parameters": {"min_probability": value}}
    response = asked.post(INFER, json=body)
    assert response.status_code == 400
    assert "min_probability must be a number from 0 to 1" in response.json()["error"]


def test_calls_of_tensorflow_serving_know_no_threshold(asked: Client) -> None:
    for verb, body in (
        ("predict", {"instances": [{"b64": ""}]}),
        ("predict", {"inputs": [[[[0]] * 8] * 8]}),
        ("classify", {"examples": [{"image/encoded": {"b64": base64.b64encode(UNSURE).decode()}}]}),
    ):
        path = f"/v1/models/grey:{verb}"
        without = asked.post(path, json=body)
        with_one = asked.post(f"{path}?min_probability=1&min_accuracy=x", json=body)
        assert (with_one.status_code, with_one.content) == (without.status_code, without.content)


def test_the_metadata_has_the_thresholds(asked: Client) -> None:
    metadata = asked.get("/v1/models/grey/metadata").json()["metadata"]
    assert metadata["thresholds"] == CONFIDENCE["thresholds"]
    assert "thresholds" not in asked.get("/v1/models/plain/metadata").json()["metadata"]
