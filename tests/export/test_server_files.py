import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
import yaml
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from keras_cnns_export.contract import TensorSpec
from keras_cnns_export.server_files import kserve_manifest, resource_name, triton_config

IMAGES = TensorSpec("images", "uint8", (None, 32, 30, 3))
OUTPUTS = (
    TensorSpec("probabilities", "float32", (None, 10)),
    TensorSpec("top_k_indices", "int32", (None, 5)),
    TensorSpec("cam", "float32", (None, 7, 7)),
)


def test_tritons_own_classes_read_the_config() -> None:
    text = triton_config("digits", (IMAGES,), OUTPUTS, {"onnx": {"path": "model.onnx"}})
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert (config.name, config.backend) == ("digits", "onnxruntime")
    assert config.default_model_filename == "model.onnx"
    assert config.max_batch_size > 1
    assert config.HasField("dynamic_batching")
    assert config.dynamic_batching.max_queue_delay_microseconds > 0
    (given,) = config.input
    assert (given.name, list(given.dims)) == ("images", [32, 30, 3])
    assert given.data_type == model_config_pb2.TYPE_UINT8
    described = [(each.name, list(each.dims), each.label_filename) for each in config.output]
    assert described == [
        ("probabilities", [10], "labels.txt"),
        ("top_k_indices", [5], ""),
        ("cam", [7, 7], ""),
    ]
    types = [model_config_pb2.DataType.Name(each.data_type) for each in config.output]
    assert types == ["TYPE_FP32", "TYPE_INT32", "TYPE_FP32"]


@pytest.mark.parametrize(
    ("formats", "uri", "expected"),
    [
        (("saved_model", "onnx"), None, ("tensorflow", "v1", "pvc://models/My_Net.2")),
        (("saved_model",), "s3://b/My_Net.2/", ("tensorflow", "v1", "s3://b/My_Net.2")),
        (("onnx",), None, ("triton", "v2", "pvc://models")),
    ],
)
def test_the_manifest_names_what_serves_it(
    formats: Sequence[str], uri: str | None, expected: tuple[str, str, str]
) -> None:
    text = kserve_manifest("My_Net.2", dict.fromkeys(formats), uri)
    manifest: dict[str, Any] = yaml.safe_load(text)
    assert manifest == json.loads(text)
    assert manifest["apiVersion"] == "serving.kserve.io/v1beta1"
    assert manifest["kind"] == "InferenceService"
    assert manifest["metadata"]["name"] == "my-net-2"
    model = manifest["spec"]["predictor"]["model"]
    given = model["modelFormat"]["name"], model["protocolVersion"], model["storageUri"]
    assert given == expected


LONG = "3d-" + "a" * 59 + "-b"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("digits", "digits"),
        ("My_Net.2", "my-net-2"),
        ("3d-shapes", "model-3d-shapes"),
        ("a" * 63, "a" * 63),
        ("ends-", "ends"),
        ("a" * 53 + "-" + "b" * 20, "a" * 53 + "-af3ec493"),
        (LONG, "model-3d-" + "a" * 45 + "-4a11f418"),
        (LONG + "c", "model-3d-" + "a" * 45 + "-959df4d5"),
    ],
)
def test_kubernetes_takes_the_name(name: str, expected: str) -> None:
    given = resource_name(name)
    assert re.fullmatch("[a-z]([-a-z0-9]{0,61}[a-z0-9])?", given)  # RFC 1035
    assert given == expected
    assert yaml.safe_load(kserve_manifest(name, {"onnx": {}}))["metadata"]["name"] == given
