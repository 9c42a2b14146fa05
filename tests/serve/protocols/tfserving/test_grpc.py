"""TensorFlow Serving's gRPC, asked by its own client, in a process with TensorFlow loaded."""

import asyncio
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import wrappers_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    input_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from keras_cnns_serve.compose import create_grpc
from keras_cnns_serve.core.dataplane import Dataplane
from keras_cnns_serve.core.limits import Budget
from keras_cnns_serve.core.servable import Options
from keras_cnns_serve.errors import InputTooLargeError, InvalidInputError, QueueFullError
from keras_cnns_serve.protocols.tfserving.grpc import TensorFlowServingGrpc
from keras_cnns_serve.protos import tensorflow_serving
from tests.serve.conftest import LABELS, OUTPUTS, graph, grey, write_version
from tests.serve.processes import Process, running

PIXELS = np.stack([np.full((8, 8, 1), level, np.uint8) for level in (130, 0)])
IMAGES = [grey(130), grey(0)]
Code = grpc.StatusCode
SHAPE_1000 = {"dim": [{"size": size} for size in (1000, 8, 8, 1)]}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("serving")
    write_version(root / "grey" / "1")
    write_version(root / "two" / "1", graph(extra_output=True), outputs=OUTPUTS)
    write_version(root / "two" / "2", graph(extra_output=True), outputs=OUTPUTS)
    return root


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Process]:
    with running(str(models), "--admin", "--versions", "all", "--poll", "0") as process:
        yield process


@pytest.fixture(scope="module")
def channel(server: Process) -> Iterator[grpc.Channel]:
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(server.grpc, options) as channel:
        yield channel


@pytest.fixture(scope="module")
def prediction(channel: grpc.Channel) -> Any:
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def model(channel: grpc.Channel) -> Any:
    return model_service_pb2_grpc.ModelServiceStub(channel)


def predict(name: str = "grey", **inputs: Any) -> Any:
    request = predict_pb2.PredictRequest(model_spec={"name": name})
    for key, value in (inputs or {"images": PIXELS}).items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    return request


def examples(*contents: bytes, feature: str = "image/encoded") -> Any:
    return input_pb2.Input(
        example_list={
            "examples": [
                {"features": {"feature": {feature: {"bytes_list": {"value": [content]}}}}}
                for content in contents
            ]
        }
    )


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_predict(prediction: Any, dtype: str) -> None:
    response = prediction.Predict(predict(images=PIXELS.astype(dtype)))
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("grey", 1, "serving_default")
    assert list(response.outputs) == ["probabilities"]
    probabilities = tf.make_ndarray(response.outputs["probabilities"])
    assert probabilities.dtype == np.float32
    assert probabilities.argmax(axis=1).tolist() == [5, 0]
    assert probabilities[0, 5] == np.float32(0.47224745)
    # What many clients read, without TensorFlow.
    assert np.argmax(response.outputs["probabilities"].float_val[:10]) == 5


def test_many_values_one_by_one(prediction: Any) -> None:
    request = predict()
    request.inputs["images"].CopyFrom(
        type(request.inputs["images"])(
            dtype=tf.uint8.as_datatype_enum, int_val=[130] * 64 * 1000, tensor_shape=SHAPE_1000
        )
    )
    response = prediction.Predict(request)
    assert set(np.reshape(response.outputs["probabilities"].float_val, (1000, 10)).argmax(1)) == {5}


def test_one_value_fills_an_image(prediction: Any) -> None:
    request = predict()
    request.inputs["images"].CopyFrom(tf.make_tensor_proto(130, tf.uint8, [1, 8, 8, 1]))
    response = prediction.Predict(request)
    assert np.argmax(response.outputs["probabilities"].float_val) == 5


@pytest.mark.parametrize("signature", ["serving_default", "serving_bytes"])
def test_signatures_and_output_filter(prediction: Any, signature: str) -> None:
    inputs = {"images": PIXELS} if signature == "serving_default" else {"image_bytes": IMAGES}
    request = predict("two", **inputs)
    request.model_spec.signature_name = signature
    request.output_filter.append("logits")
    response = prediction.Predict(request)
    assert response.model_spec.signature_name == signature
    assert response.model_spec.version.value == 2
    assert list(response.outputs) == ["logits"]
    assert tf.make_ndarray(response.outputs["logits"]).argmax(axis=1).tolist() == [5, 0]


def test_a_version(prediction: Any) -> None:
    request = predict("two")
    request.model_spec.version.CopyFrom(wrappers_pb2.Int64Value(value=1))
    assert prediction.Predict(request).model_spec.version.value == 1


def test_classify(prediction: Any) -> None:
    request = classification_pb2.ClassificationRequest(
        model_spec={"name": "grey"}, input=examples(*IMAGES)
    )
    first, second = prediction.Classify(request).result.classifications
    assert [each.label for each in first.classes] == LABELS
    assert max(first.classes, key=lambda each: each.score).label == "grey-5"
    assert max(second.classes, key=lambda each: each.score).label == "grey-0"


def test_what_an_example_lacks_the_context_has(prediction: Any) -> None:
    (shared,) = examples(IMAGES[0]).example_list.examples
    with_context = input_pb2.ExampleListWithContext(examples=[tf.train.Example()], context=shared)
    request = classification_pb2.ClassificationRequest(
        model_spec={"name": "grey"},
        input=input_pb2.Input(example_list_with_context=with_context),
    )
    (only,) = prediction.Classify(request).result.classifications
    assert max(only.classes, key=lambda each: each.score).label == "grey-5"


def test_the_image_of_the_context_is_copied_once(dataplane: Dataplane) -> None:
    """A copy for each example would make 2 GB out of a message of 1 MB."""
    feature = {"image/encoded": {"bytes_list": {"value": [bytes(2**20)]}}}
    with_context = {"examples": [{}] * 2_000, "context": {"features": {"feature": feature}}}
    request = tensorflow_serving.ClassificationRequest(
        model_spec={"name": "grey"}, input={"example_list_with_context": with_context}
    )
    tracemalloc.start()
    try:
        with pytest.raises(InputTooLargeError, match="can have at most 1,024 encoded images"):
            asyncio.run(TensorFlowServingGrpc(dataplane, 2**30).classify(request, None))
        assert tracemalloc.get_traced_memory()[1] < 100 * 10**6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("names", "error"),
    [([str(number) for number in range(50)], InvalidInputError), (["images"], QueueFullError)],
    ids=["50 inputs in each message", "one input in each message"],
)
def test_repeated_values_take_no_more_memory_than_the_budget(
    models: Path, names: list[str], error: type[Exception]
) -> None:
    """They would be 1.6 GB."""
    shape = {"dim": [{"size": size} for size in (2**17, 8, 8, 1)]}
    tensor = {"dtype": "DT_FLOAT", "tensor_shape": shape, "float_val": [0, 1]}
    request = tensorflow_serving.PredictRequest(
        model_spec={"name": "grey"}, inputs=dict.fromkeys(names, tensor)
    )
    budget = Budget(100 * 10**6)
    dataplane = Dataplane.open(models, options=Options(budget=budget))
    service = TensorFlowServingGrpc(dataplane, 2**25)

    async def ask() -> list[Any]:
        calls = [service.predict(request, time.monotonic() + 20) for _ in range(50)]
        return await asyncio.gather(*calls, return_exceptions=True)

    tracemalloc.start()
    try:
        answers = asyncio.run(ask())
        assert sum(isinstance(answer, error) for answer in answers) >= 48
        assert tracemalloc.get_traced_memory()[1] < 150 * 10**6
    finally:
        tracemalloc.stop()
        dataplane.close(5)
    assert budget.used == 0


def test_examples_are_counted_before_they_are_read(dataplane: Dataplane) -> None:
    """A list of millions would keep the event loop busy for seconds."""
    request = tensorflow_serving.ClassificationRequest(
        model_spec={"name": "grey"}, input={"example_list": {"examples": [{}] * 1025}}
    )
    with pytest.raises(InputTooLargeError, match="at most 1,024 encoded images, not 1,025"):
        asyncio.run(TensorFlowServingGrpc(dataplane, 2**30).classify(request, None))


def test_multi_inference(prediction: Any) -> None:
    task = {"model_spec": {"name": "grey"}, "method_name": "tensorflow/serving/classify"}
    named = {**task, "model_spec": {"name": "grey", "signature_name": "classify"}}
    request = inference_pb2.MultiInferenceRequest(tasks=[task, named], input=examples(*IMAGES))
    results = prediction.MultiInference(request).results
    assert len(results) == 2
    for result in results:
        assert len(result.classification_result.classifications) == 2


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([("grey", ""), ("grey", "serving_default")], "evaluation of signature: serving_default"),
        ([("grey", "classify"), ("two", "")], "must access the same model name; they have grey, t"),
    ],
)
def test_multi_inference_runs_each_signature_of_one_model_once(
    prediction: Any, specs: list[tuple[str, str]], message: str
) -> None:
    """As in TensorFlow Serving. A thousand equal tasks would be a thousand times the work."""
    tasks = [
        {
            "model_spec": {"name": name, "signature_name": signature},
            "method_name": "tensorflow/serving/classify",
        }
        for name, signature in specs
    ]
    with pytest.raises(grpc.RpcError) as refused:
        prediction.MultiInference(
            inference_pb2.MultiInferenceRequest(tasks=tasks, input=examples(*IMAGES))
        )
    assert refused.value.code() == Code.INVALID_ARGUMENT
    assert message in refused.value.details()


def test_metadata(prediction: Any) -> None:
    request = get_model_metadata_pb2.GetModelMetadataRequest(
        model_spec={"name": "two"}, metadata_field=["signature_def"]
    )
    response = prediction.GetModelMetadata(request)
    assert response.model_spec.version.value == 2
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    default = signatures.signature_def["serving_default"]
    images = default.inputs["images"]
    assert images.dtype == tf.uint8.as_datatype_enum
    assert [dim.size for dim in images.tensor_shape.dim] == [-1, 8, 8, 1]
    assert set(default.outputs) == {"probabilities", "logits"}
    assert default.method_name == "tensorflow/serving/predict"


def test_status(model: Any) -> None:
    request = get_model_status_pb2.GetModelStatusRequest(model_spec={"name": "two"})
    statuses = model.GetModelStatus(request).model_version_status
    assert [each.version for each in statuses] == [2, 1]
    available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
    assert {each.state for each in statuses} == {available}


def test_reload_config(model: Any, prediction: Any, models: Path) -> None:
    def reload(*names: str, base_path: Path = models) -> Any:
        request = model_management_pb2.ReloadConfigRequest()
        for name in names:
            entry = request.config.model_config_list.config.add(
                name=name, base_path=str(base_path / name), model_platform="tensorflow"
            )
            entry.model_version_policy.specific.versions.append(1)
            entry.version_labels["stable"] = 1
        return model.HandleReloadConfigRequest(request)

    def answers(name: str, **spec: Any) -> int:
        request = predict(name)
        request.model_spec.MergeFrom(type(request.model_spec)(**spec))
        return int(prediction.Predict(request).model_spec.version.value)

    assert reload("two").status.error_code == 0
    assert answers("two") == 1
    assert answers("two", version_label="stable") == 1
    with pytest.raises(grpc.RpcError) as gone:
        answers("grey")
    assert gone.value.code() == Code.NOT_FOUND
    with pytest.raises(grpc.RpcError) as twice:
        reload("two", "two")
    assert twice.value.code() == Code.INVALID_ARGUMENT
    assert answers("two") == 1
    reload("grey", "two")
    assert answers("grey") == 1


def test_messages_above_4_mb(prediction: Any) -> None:
    pixels = np.zeros((100_000, 8, 8, 1), np.uint8)
    response = prediction.Predict(predict(images=pixels))
    assert len(response.outputs["probabilities"].float_val) == 1_000_000


def with_spec(request: Any, **spec: Any) -> Any:
    request.model_spec.MergeFrom(type(request.model_spec)(**spec))
    return request


def claiming(*sizes: int) -> Any:
    """A request of a few bytes with a tensor of this shape."""
    request = predict()
    request.inputs["images"].CopyFrom(tf.make_tensor_proto(1, tf.uint8))
    for size in sizes:
        request.inputs["images"].tensor_shape.dim.add(size=size)
    return request


def classify_request(**fields: Any) -> Any:
    return classification_pb2.ClassificationRequest(model_spec={"name": "grey"}, **fields)


@pytest.mark.parametrize(
    ("method", "request_", "code", "message"),
    [
        ("Predict", predict("gray"), Code.NOT_FOUND, "gray"),
        ("Predict", predict(""), Code.INVALID_ARGUMENT, "Missing ModelSpec"),
        ("Predict", with_spec(predict(), version={"value": 7}), Code.NOT_FOUND, "7"),
        ("Predict", with_spec(predict(), version_label="x"), Code.INVALID_ARGUMENT, "label: x"),
        ("Predict", with_spec(predict(), signature_name="x"), Code.INVALID_ARGUMENT, '"x" not f'),
        (
            "Predict",
            with_spec(predict(), signature_name="classify"),
            Code.INVALID_ARGUMENT,
            "Was: tensorflow/serving/classify",
        ),
        ("Predict", predict(x=PIXELS), Code.INVALID_ARGUMENT, "only input must be images, not x"),
        ("Predict", predict(images=PIXELS[:, :7]), Code.INVALID_ARGUMENT, "not of shape"),
        ("Predict", predict(images=PIXELS / 255), Code.INVALID_ARGUMENT, "integers from 0 to 255"),
        ("Predict", predict(images=IMAGES), Code.INVALID_ARGUMENT, "integers from 0 to 255"),
        (
            "Predict",
            with_spec(predict(), signature_name="serving_bytes"),
            Code.INVALID_ARGUMENT,
            "serving_bytes must be image_bytes",
        ),
        ("Predict", claiming(2**40, 8, 8, 1), Code.INVALID_ARGUMENT, "has more than"),
        ("Predict", claiming(2**62, 2**62), Code.INVALID_ARGUMENT, "has more than"),
        ("Predict", claiming(-1, 8, 8, 1), Code.INVALID_ARGUMENT, "an integer of at least 0"),
        ("Predict", claiming(0, 8, 8, 1), Code.INVALID_ARGUMENT, "its shape needs 0"),
        ("Classify", classify_request(), Code.INVALID_ARGUMENT, "Input is empty"),
        (
            "Classify",
            classify_request(input=examples(IMAGES[0], feature="image")),
            Code.INVALID_ARGUMENT,
            "'image/encoded'",
        ),
        (
            "Classify",
            classify_request(input=examples(b"no image")),
            Code.INVALID_ARGUMENT,
            "not an image",
        ),
        (
            "Regress",
            regression_pb2.RegressionRequest(model_spec={"name": "grey"}, input=examples(*IMAGES)),
            Code.INVALID_ARGUMENT,
            "Expected regress signature",
        ),
        (
            "MultiInference",
            inference_pb2.MultiInferenceRequest(input=examples(*IMAGES)),
            Code.INVALID_ARGUMENT,
            "at least one task",
        ),
        (
            "GetModelMetadata",
            get_model_metadata_pb2.GetModelMetadataRequest(model_spec={"name": "grey"}),
            Code.INVALID_ARGUMENT,
            "at least one metadata_field",
        ),
    ],
)
def test_errors(prediction: Any, method: str, request_: Any, code: Any, message: str) -> None:
    with pytest.raises(grpc.RpcError) as error:
        getattr(prediction, method)(request_)
    assert error.value.code() == code
    assert message in error.value.details()


def test_client_and_server_in_one_process_with_tensorflow(dataplane: Dataplane) -> None:
    async def main() -> Any:
        server = create_grpc(dataplane, "127.0.0.1", 0, max_message_bytes=100_000)
        async with server, grpc.aio.insecure_channel(server.address) as channel:
            return await prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(
                predict()
            )

    assert "tensorflow" in sys.modules
    response = asyncio.run(asyncio.wait_for(main(), 30))
    assert tf.make_ndarray(response.outputs["probabilities"]).argmax(axis=1).tolist() == [5, 0]


def test_without_admin_nothing_is_configured(repository: Path) -> None:
    with (
        running(str(repository / "grey")) as process,
        grpc.insecure_channel(process.grpc) as channel,
    ):
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        request = model_management_pb2.ReloadConfigRequest()
        request.config.model_config_list.config.add(name="x", base_path="/tmp")
        with pytest.raises(grpc.RpcError) as error:
            stub.HandleReloadConfigRequest(request)
        assert error.value.code() == Code.PERMISSION_DENIED
        assert "--admin" in error.value.details()
