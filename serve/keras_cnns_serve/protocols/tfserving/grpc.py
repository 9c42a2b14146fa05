"""TensorFlow Serving's gRPC services, PredictionService and ModelService."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from google.protobuf.json_format import ParseDict
from numpy.typing import NDArray

from keras_cnns_serve.core.dataplane import Dataplane
from keras_cnns_serve.core.inputs import check_count, check_names
from keras_cnns_serve.core.prediction import Prediction, Target
from keras_cnns_serve.errors import InvalidInputError
from keras_cnns_serve.protocols.parsing import parse
from keras_cnns_serve.protocols.responding import LABEL_BYTES, NUMBER_BYTES, respond
from keras_cnns_serve.protos import tensorflow_serving
from keras_cnns_serve.repository.configuration import from_proto
from keras_cnns_serve.repository.files import ModelVersion
from keras_cnns_serve.transport.grpc.server import Service

from .service import (
    CLASSIFY_METHOD,
    DEFAULT,
    IMAGE_FEATURE,
    PREDICT_METHOD,
    REGRESS_METHOD,
    Signature,
    find_signature,
    infer_examples,
    model_version_status,
    signature_def,
)
from .tensor import STRING, conversion_size, to_array, to_proto


class TensorFlowServingGrpc:
    """PredictionService and ModelService.

    Args:
        dataplane: the data plane.
        max_bytes: maximum size of a tensor in bytes; it can be larger than the message with its
            values.
    """

    def __init__(self, dataplane: Dataplane, max_bytes: int) -> None:
        self._dataplane = dataplane
        self._max_bytes = max_bytes

    def services(self) -> list[Service]:
        """Return both services."""
        prediction = {
            "Predict": self.predict,
            "Classify": self.classify,
            "Regress": self.regress,
            "MultiInference": self.multi_inference,
            "GetModelMetadata": self.get_model_metadata,
        }
        model = {
            "GetModelStatus": self.get_model_status,
            "HandleReloadConfigRequest": self.handle_reload_config,
        }
        return [
            Service(tensorflow_serving.service("PredictionService"), prediction),
            Service(tensorflow_serving.service("ModelService"), model),
        ]

    async def predict(self, request: Any, deadline: float | None) -> Any:
        """Return outputs for tensors of pixels or encoded images.

        These are the outputs in output_filter, or all outputs if it is empty.
        """
        target = _target(request.model_spec)
        manifest = self._dataplane.metadata(target).manifest
        name = request.model_spec.signature_name
        signature = find_signature(manifest, name, PREDICT_METHOD)
        if not signature.encoded:
            # Before the arrays are created, which can be much larger than the message.
            check_names(manifest, request.inputs)
        elif set(request.inputs) != {signature.inputs[0].name}:
            raise InvalidInputError(_wanted(signature))
        ((input_name, tensor),) = request.inputs.items()
        if signature.encoded and tensor.dtype != STRING:
            raise InvalidInputError(_wanted(signature))
        outputs = list(request.output_filter)
        budget = self._dataplane.budget
        with budget.claim() as claim:
            size = conversion_size(tensor)
            array = await parse(
                size, deadline, to_array, tensor, input_name, self._max_bytes, claim
            )
            if signature.encoded:
                if array.ndim != 1:
                    raise InvalidInputError(_wanted(signature))
                prediction = await self._dataplane.predict_bytes(
                    target, array.tolist(), outputs=outputs, deadline=deadline
                )
            else:
                prediction = await self._dataplane.predict(
                    target, {input_name: array}, outputs=outputs, deadline=deadline
                )
        count = sum(values.size for values in prediction.outputs.values())
        return await respond(
            budget,
            deadline,
            count,
            count * NUMBER_BYTES,
            _predict_response,
            prediction,
            signature.name,
        )

    async def classify(self, request: Any, deadline: float | None) -> Any:
        """Return all labels with their scores for each tf.Example."""
        contents = _images(request.input)
        response = tensorflow_serving.ClassificationResponse()
        await self._infer(
            request.model_spec, contents, CLASSIFY_METHOD, deadline, response, response.result
        )
        return response

    async def regress(self, request: Any, deadline: float | None) -> Any:
        """Return one number for each tf.Example."""
        contents = _images(request.input)
        response = tensorflow_serving.RegressionResponse()
        await self._infer(
            request.model_spec, contents, REGRESS_METHOD, deadline, response, response.result
        )
        return response

    async def multi_inference(self, request: Any, deadline: float | None) -> Any:
        """Run several classify and regress tasks on the same tf.Examples."""
        if not request.tasks:
            raise InvalidInputError("Inference request must have at least one task")
        names = {task.model_spec.name for task in request.tasks}
        if len(names) > 1:
            raise InvalidInputError(
                "All ModelSpecs in a MultiInferenceRequest must access the same model name; they "
                f"have {', '.join(sorted(names)):.200}"
            )
        signatures = Counter(task.model_spec.signature_name or DEFAULT for task in request.tasks)
        name, count = signatures.most_common(1)[0]
        if count > 1:
            raise InvalidInputError(f"Duplicate evaluation of signature: {name:.80}")
        contents = _images(request.input)
        response = tensorflow_serving.MultiInferenceResponse()
        for task in request.tasks:
            if task.method_name not in (CLASSIFY_METHOD, REGRESS_METHOD):
                raise InvalidInputError(
                    f"method_name must be {CLASSIFY_METHOD} or {REGRESS_METHOD}, not "
                    f"{task.method_name!r:.80}"
                )
            method, result = task.method_name, response.results.add()
            is_regression = method == REGRESS_METHOD
            values = result.regression_result if is_regression else result.classification_result
            await self._infer(task.model_spec, contents, method, deadline, result, values)
        return response

    async def _infer(
        self,
        spec: Any,
        contents: Sequence[bytes],
        method: str,
        deadline: float | None,
        response: Any,
        result: Any,
    ) -> None:
        """Run a task.

        Args:
            spec: the ModelSpec.
            contents: the encoded images.
            method: CLASSIFY_METHOD or REGRESS_METHOD.
            deadline: the deadline of the request.
            response: receives the ModelSpec of the version that answers.
            result: a ClassificationResult or RegressionResult, which receives the results.
        """
        prediction, values = await infer_examples(
            self._dataplane, _target(spec), spec.signature_name, contents, method, deadline
        )
        name = spec.signature_name or DEFAULT
        response.model_spec.CopyFrom(tensorflow_serving.ModelSpec(**_spec(prediction.source, name)))
        await respond(
            self._dataplane.budget,
            deadline,
            values.size,
            values.size * LABEL_BYTES,
            _add_results,
            result,
            prediction.source.labels,
            values,
        )

    async def get_model_metadata(self, request: Any, deadline: float | None) -> Any:
        """Return the signatures of a version."""
        fields = list(request.metadata_field)
        if fields != ["signature_def"]:
            raise InvalidInputError(
                f"the only metadata_field must be 'signature_def', not {', '.join(fields):.80}"
                if fields
                else "GetModelMetadataRequest must specify at least one metadata_field"
            )
        source = self._dataplane.metadata(_target(request.model_spec))
        response = tensorflow_serving.GetModelMetadataResponse(model_spec=_spec(source))
        response.metadata["signature_def"].Pack(
            ParseDict(signature_def(source.manifest), tensorflow_serving.SignatureDefMap())
        )
        return response

    async def get_model_status(self, request: Any, deadline: float | None) -> Any:
        """Return the states of all versions of a model, or of the requested version."""
        states = model_version_status(self._dataplane, _target(request.model_spec))
        response = tensorflow_serving.GetModelStatusResponse()
        return ParseDict({"model_version_status": states}, response)

    async def handle_reload_config(self, request: Any, deadline: float | None) -> Any:
        """Replace the server's configuration, and serve the models of the new one."""
        self._dataplane.check_admin()
        if request.config.WhichOneof("config") != "model_config_list":
            raise InvalidInputError("the config must be a model_config_list")
        await self._dataplane.reload_config(from_proto(request.config), deadline)
        return tensorflow_serving.ReloadConfigResponse(status={"error_code": "OK"})


def _target(spec: Any) -> Target:
    if not spec.name:
        raise InvalidInputError("Missing ModelSpec: it must have the name of the model")
    choice = spec.WhichOneof("version_choice")
    return Target(
        spec.name,
        spec.version.value if choice == "version" else None,
        spec.version_label if choice == "version_label" else None,
    )


def _spec(source: ModelVersion, signature_name: str = "") -> dict[str, Any]:
    version = {"value": source.version}
    return {"name": source.name, "version": version, "signature_name": signature_name}


def _wanted(signature: Signature) -> str:
    """Describe the input of a signature for encoded images."""
    name = signature.inputs[0].name
    return f"the only input of the signature {signature.name} must be {name}, strings of shape [N]"


def _predict_response(prediction: Prediction, signature_name: str) -> Any:
    response = tensorflow_serving.PredictResponse(
        model_spec=_spec(prediction.source, signature_name)
    )
    for output, values in prediction.outputs.items():
        response.outputs[output].CopyFrom(to_proto(values))
    return response


def _add_results(result: Any, labels: Sequence[str], values: NDArray[Any]) -> None:
    """Add the scores [N, K] of the labels to a ClassificationResult, or numbers [N] to the other.

    Args:
        result: a ClassificationResult or RegressionResult.
        labels: the labels, K of them.
        values: the scores or numbers.
    """
    if values.ndim == 1:
        for value in values.tolist():
            result.regressions.add(value=value)
        return
    for row in values.tolist():
        classes = result.classifications.add().classes
        for label, score in zip(labels, row, strict=True):
            classes.add(label=label, score=score)


def _images(request_input: Any) -> list[bytes]:
    """Return the encoded image of each tf.Example.

    A tf.Example without an image has the image of the request's context
    (`example_list_with_context`).
    """
    kind = request_input.WhichOneof("kind")
    if kind is None or not (examples := getattr(request_input, kind).examples):
        raise InvalidInputError("Input is empty: it must have at least one tf.Example")
    check_count(len(examples))
    # Read the context's image once, because reading copies it.
    shared = _image(getattr(request_input, kind).context) if kind.endswith("context") else None
    contents = []
    for number, example in enumerate(examples):
        content = _image(example) if IMAGE_FEATURE in example.features.feature else shared
        if content is None:
            raise InvalidInputError(
                f"tf.Example {number} must have one encoded image as the bytes_list of "
                f"{IMAGE_FEATURE!r}"
            )
        contents.append(content)
    return contents


def _image(example: Any) -> bytes | None:
    features = example.features.feature
    values: Sequence[bytes] = ()
    if IMAGE_FEATURE in features:
        values = features[IMAGE_FEATURE].bytes_list.value
    return values[0] if len(values) == 1 else None
