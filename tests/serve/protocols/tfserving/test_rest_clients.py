"""The REST cases of TensorFlow Serving's own test, parsed by TensorFlow Serving's messages.

See tensorflow_serving/model_servers/tensorflow_model_server_test.py; serve/README.md lists the
cases that do not apply here.
"""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf import json_format
from onnx import TensorProto, helper

from keras_cnns_serve.compose import create_app
from keras_cnns_serve.core.dataplane import Dataplane
from keras_cnns_serve.repository.configuration import ModelConfig, ServerConfig
from keras_cnns_serve.repository.policy import All
from tests.serve.conftest import LABELS, OUTPUTS, Client, graph, grey, write_version

ZEROS = np.zeros((8, 8, 1), int).tolist()
IMAGE = {"b64": base64.b64encode(grey(130)).decode()}


def with_mean() -> bytes:
    """The graph with a second output of one number: `mean` [N, 1]."""
    model = onnx.load_from_string(graph())
    model.graph.output.append(helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["N", 1]))
    return bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    root = tmp_path_factory.mktemp("serving")
    mean = {"name": "mean", "dtype": "float32", "shape": [None, 1]}
    write_version(root / "default" / "123", with_mean(), outputs=[OUTPUTS[0], mean])
    write_version(root / "plain" / "1")
    write_version(root / "plain" / "2")
    models = (
        ModelConfig("default", root / "default", labels={"stable": 123}),
        ModelConfig("plain", root / "plain", All(), {"stable": 1, "canary": 2}),
    )
    dataplane = Dataplane(ServerConfig(models))
    yield Client(create_app(dataplane))
    dataplane.close(5)


def post(client: Client, path: str, **body: Any) -> Any:
    response = client.post(f"/v1/models/{path}", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_classify(serving: Client) -> None:
    for signature in ({}, {"signature_name": "classify"}, {"signature_name": "serving_default"}):
        answer = post(
            serving, "default:classify", examples=[{"image/encoded": IMAGE}] * 2, **signature
        )
        assert list(answer) == ["results"]
        first, second = answer["results"]
        assert first == second
        assert [label for label, _ in first] == LABELS
        assert max(first, key=lambda pair: pair[1])[0] == "grey-5"


def test_regress(serving: Client) -> None:
    for signature in ({}, {"signature_name": "mean"}):
        answer = post(serving, "default:regress", examples=[{"image/encoded": IMAGE}], **signature)
        assert answer == {"results": [130.0]}


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        (
            "plain:regress",
            {"examples": [{"image/encoded": IMAGE}]},
            "Expected regress signature method_name to be tensorflow/serving/regress. "
            "Was: tensorflow/serving/predict",
        ),
        (
            "plain:classify",
            {"examples": [{"image/encoded": IMAGE}], "signature_name": "serving_bytes"},
            "Expected classify signature method_name to be tensorflow/serving/classify. "
            "Was: tensorflow/serving/predict",
        ),
        ("plain:classify", {"instances": [IMAGE]}, "'examples' must be a list"),
        (
            "plain:classify",
            {"examples": [{"image/encoded": IMAGE}], "signature_name": "x"},
            'Serving signature name: "x" not found in signature def',
        ),
    ],
)
def test_the_wrong_signature(serving: Client, path: str, body: Any, message: str) -> None:
    response = serving.post(f"/v1/models/{path}", json=body)
    assert response.status_code == 400
    assert message in response.json()["error"]


@pytest.mark.parametrize("signature", ["serving_bytes", "classify"])
def test_predict_with_encoded_images(serving: Client, signature: str) -> None:
    rows = post(serving, "plain:predict", instances=[IMAGE, IMAGE], signature_name=signature)
    columns = post(serving, "plain:predict", inputs=[IMAGE, IMAGE], signature_name=signature)
    assert np.argmax(rows["predictions"], axis=1).tolist() == [5, 5]
    assert columns["outputs"] == rows["predictions"]


def test_predict_rows_and_columns(serving: Client) -> None:
    rows = post(serving, "default:predict", instances=[ZEROS, ZEROS])["predictions"]
    assert [list(row) for row in rows] == [["probabilities", "mean"]] * 2
    columns = post(serving, "default:predict", inputs=[ZEROS, ZEROS])["outputs"]
    assert columns["mean"] == [[0.0], [0.0]]


def test_status_is_read_by_servings_message(serving: Client) -> None:
    from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusResponse

    for path in ("default", "default/versions/123", "default/labels/stable"):
        answer = serving.get(f"/v1/models/{path}")
        message = json_format.Parse(answer.text, GetModelStatusResponse())
        (status,) = message.model_version_status
        assert (status.version, status.state, status.status.error_code) == (123, 30, 0)
        assert answer.json()["model_version_status"][0] == {
            "version": "123",
            "state": "AVAILABLE",
            "status": {"error_code": "OK", "error_message": ""},
        }


def test_metadata_is_read_by_servings_message(serving: Client) -> None:
    from tensorflow_serving.apis.get_model_metadata_pb2 import SignatureDefMap
    from tensorflow_serving.apis.model_pb2 import ModelSpec

    answer = serving.get("/v1/models/plain/labels/canary/metadata").json()
    spec = json_format.ParseDict(answer["model_spec"], ModelSpec())
    assert (spec.name, spec.version.value) == ("plain", 2)
    described = json_format.ParseDict(answer["metadata"]["signature_def"], SignatureDefMap())
    default = described.signature_def["serving_default"]
    assert default.method_name == "tensorflow/serving/predict"
    assert [dim.size for dim in default.inputs["images"].tensor_shape.dim] == [-1, 8, 8, 1]


def test_labels_choose_a_version(serving: Client) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "predict": {"instances": [ZEROS]},
        "classify": {"examples": [{"image/encoded": IMAGE}]},
    }
    for verb, body in bodies.items():
        answers = [
            post(serving, f"plain{place}:{verb}", **body)
            for place in ("/labels/stable", "/labels/canary", "/versions/1", "")
        ]
        assert all(answer == answers[0] for answer in answers)
    response = serving.post("/v1/models/plain/labels/new:predict", json={"instances": [ZEROS]})
    assert response.status_code == 400
    assert "Unrecognized servable version label: new" in response.json()["error"]


def test_the_path_ignores_case_and_decodes(serving: Client) -> None:
    assert serving.post("/V1/Models/plain:PREDICT", json={"instances": [ZEROS]}).is_success
    assert serving.post("/v1/models/pl%61in:predict", json={"instances": [ZEROS]}).is_success


def test_a_good_and_a_bad_configuration_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from keras_cnns_serve.cli import main

    bad = tmp_path / "bad_model_config.txt"
    bad.write_text("improperly formatted file!\n")
    assert main([f"--model_config_file={bad}", "--rest_api_port=0"]) == 1
    assert f"Invalid protobuf file: '{bad}'" in capsys.readouterr().err


def test_infinity_in_and_out(serving: Client) -> None:
    body = b'{"instances": [[[[Infinity]]]]}'
    response = serving.post("/v1/models/plain:predict", content=body)
    assert response.status_code == 400
    assert "not of shape [1, 1, 1, 1]" in json.loads(response.content)["error"]
