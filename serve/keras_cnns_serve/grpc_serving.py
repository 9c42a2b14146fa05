"""TensorFlow Serving's gRPC services, Prediction and Model. They translate; `dataplane` answers."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .admin import check_admin
from .config_file import from_proto
from .dataplane import Dataplane, Prediction, Target
from .errors import InvalidInputError, SignatureError
from .grpc_server import IN_THREAD, Service
from .grpc_tensor import to_array, to_proto
from .manifest import Tensor
from .protos import tensorflow, tensorflow_serving
from .repository import ModelVersion
from .signatures import (
    CLASSIFY_METHOD,
    DEFAULT,
    IMAGE_FEATURE,
    PREDICT_METHOD,
    REGRESS_METHOD,
    TENSORFLOW_TYPES,
    examples_output,
    find_signature,
    signatures,
)


class ServingServices:
    """PredictionService and ModelService.

    Args:
        dataplane: what answers.
        max_bytes: the largest tensor that a message may claim.
        admin: whether clients may configure what is served.
    """

    def __init__(self, dataplane: Dataplane, max_bytes: int, *, admin: bool = False) -> None:
        self._dataplane = dataplane
        self._max_bytes = max_bytes
        self._admin = admin

    def services(self) -> list[Service]:
        """Both services."""
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
        """Tensors in, the outputs that output_filter names out; all, if it names none."""
        target = _target(request.model_spec)
        manifest = self._dataplane.metadata(target).manifest
        signature = find_signature(manifest, request.model_spec.signature_name)
        if signature.method != PREDICT_METHOD:
            raise SignatureError(
                f"Expected predict signature method_name to be {PREDICT_METHOD}. "
                f"Was: {signature.method}"
            )
        # Values one by one take long to read; the event loop has others to serve.
        if (
            all(tensor.tensor_content for tensor in request.inputs.values())
            or request.ByteSize() < IN_THREAD
        ):
            inputs = self._arrays(request)
        else:
            inputs = await asyncio.to_thread(self._arrays, request)
        outputs = list(request.output_filter)
        if signature.encoded:
            (expected,) = signature.inputs
            array = inputs.get(expected.name)
            if len(inputs) != 1 or array is None or array.dtype != np.object_ or array.ndim != 1:
                raise InvalidInputError(
                    f"the signature {signature.name} takes {expected.name} alone, strings of "
                    "shape [N]"
                )
            prediction = await self._dataplane.predict_bytes(
                target, array.tolist(), outputs=outputs, deadline=deadline
            )
        else:
            prediction = await self._dataplane.predict(
                target, inputs, outputs=outputs, deadline=deadline
            )
        response = tensorflow_serving.PredictResponse(
            model_spec=_spec(prediction.source, signature.name)
        )
        for name, values in prediction.outputs.items():
            response.outputs[name].CopyFrom(to_proto(values))
        return response

    def _arrays(self, request: Any) -> dict[str, NDArray[Any]]:
        return {
            name: to_array(tensor, name, self._max_bytes) for name, tensor in request.inputs.items()
        }

    async def classify(self, request: Any, deadline: float | None) -> Any:
        """tf.Examples in, every label with its score out."""
        prediction, output = await self._examples(
            request.model_spec, _contents(request.input), CLASSIFY_METHOD, deadline
        )
        return tensorflow_serving.ClassificationResponse(
            model_spec=_spec(prediction.source, request.model_spec.signature_name or DEFAULT),
            result=_classifications(prediction, output),
        )

    async def regress(self, request: Any, deadline: float | None) -> Any:
        """tf.Examples in, one number for each out."""
        prediction, output = await self._examples(
            request.model_spec, _contents(request.input), REGRESS_METHOD, deadline
        )
        return tensorflow_serving.RegressionResponse(
            model_spec=_spec(prediction.source, request.model_spec.signature_name or DEFAULT),
            result=_regressions(prediction, output),
        )

    async def multi_inference(self, request: Any, deadline: float | None) -> Any:
        """Several classify and regress tasks over the same tf.Examples."""
        if not request.tasks:
            raise InvalidInputError("Inference request must have at least one task")
        contents = _contents(request.input)
        results = []
        for task in request.tasks:
            if task.method_name not in _RESULTS:
                raise InvalidInputError(
                    f"method_name must be {' or '.join(_RESULTS)}, not {task.method_name!r:.80}"
                )
            field, write = _RESULTS[task.method_name]
            spec = task.model_spec
            prediction, output = await self._examples(spec, contents, task.method_name, deadline)
            results.append(
                {
                    "model_spec": _spec(prediction.source, spec.signature_name or DEFAULT),
                    field: write(prediction, output),
                }
            )
        return tensorflow_serving.MultiInferenceResponse(results=results)

    async def _examples(
        self, spec: Any, contents: Sequence[bytes], method: str, deadline: float | None
    ) -> tuple[Prediction, str]:
        target = _target(spec)
        output = examples_output(
            self._dataplane.metadata(target).manifest, spec.signature_name, method
        )
        prediction = await self._dataplane.predict_bytes(
            target, contents, outputs=(output,), deadline=deadline
        )
        return prediction, output

    async def get_model_metadata(self, request: Any, deadline: float | None) -> Any:
        """The signatures of a version."""
        fields = list(request.metadata_field)
        if fields != ["signature_def"]:
            raise InvalidInputError(
                f"metadata_field must be 'signature_def' alone, not {', '.join(fields):.80}"
                if fields
                else "GetModelMetadataRequest must specify at least one metadata_field"
            )
        source = self._dataplane.metadata(_target(request.model_spec))
        described = {
            name: tensorflow.SignatureDef(
                inputs=_tensor_infos(signature.inputs),
                outputs=_tensor_infos(signature.outputs),
                method_name=signature.method,
            )
            for name, signature in signatures(source.manifest).items()
        }
        response = tensorflow_serving.GetModelMetadataResponse(model_spec=_spec(source))
        response.metadata["signature_def"].Pack(
            tensorflow_serving.SignatureDefMap(signature_def=described)
        )
        return response

    async def get_model_status(self, request: Any, deadline: float | None) -> Any:
        """The state of a model's versions, or of one."""
        states = self._dataplane.status(_target(request.model_spec))
        return tensorflow_serving.GetModelStatusResponse(
            model_version_status=[
                {
                    "version": each.version,
                    "state": each.state.value,
                    "status": {"error_code": each.code, "error_message": each.message},
                }
                for each in states
            ]
        )

    async def handle_reload_config(self, request: Any, deadline: float | None) -> Any:
        """Serves other models from now on."""
        check_admin(self._admin)
        if request.config.WhichOneof("config") != "model_config_list":
            raise InvalidInputError("only a model_config_list can be served")
        await self._dataplane.reload_config(from_proto(request.config))
        return tensorflow_serving.ReloadConfigResponse(status={"error_code": "OK"})


def _target(spec: Any) -> Target:
    if not spec.name:
        raise InvalidInputError("Missing ModelSpec: its name says which model")
    match spec.WhichOneof("version_choice"):
        case "version":
            return Target(spec.name, version=spec.version.value)
        case "version_label":
            return Target(spec.name, label=spec.version_label)
    return Target(spec.name)


def _spec(source: ModelVersion, signature_name: str = "") -> Any:
    return tensorflow_serving.ModelSpec(
        name=source.name, version={"value": source.version}, signature_name=signature_name
    )


def _contents(request_input: Any) -> list[bytes]:
    """The encoded image of every tf.Example; what an example lacks, the context may have."""
    kind = request_input.WhichOneof("kind")
    if kind is None or not (examples := getattr(request_input, kind).examples):
        raise InvalidInputError("Input is empty: it must have at least one tf.Example")
    shared = getattr(request_input, kind).context if kind.endswith("context") else None
    contents = []
    for number, example in enumerate(examples):
        features = example.features.feature
        if shared is not None and IMAGE_FEATURE not in features:
            features = shared.features.feature
        values: Sequence[bytes] = ()
        if IMAGE_FEATURE in features:
            values = features[IMAGE_FEATURE].bytes_list.value
        if len(values) != 1:
            raise InvalidInputError(
                f"tf.Example {number} must have one encoded image as the bytes_list of "
                f"{IMAGE_FEATURE!r}"
            )
        contents.append(values[0])
    return contents


def _classifications(prediction: Prediction, output: str) -> Any:
    labels = prediction.source.labels
    return tensorflow_serving.ClassificationResult(
        classifications=[
            {"classes": [{"label": n, "score": s} for n, s in zip(labels, row, strict=True)]}
            for row in prediction.outputs[output].tolist()
        ]
    )


def _regressions(prediction: Prediction, output: str) -> Any:
    values = prediction.outputs[output].reshape(-1).tolist()
    return tensorflow_serving.RegressionResult(regressions=[{"value": each} for each in values])


# Of a task: the field of its result, and what writes it.
_RESULTS = {
    CLASSIFY_METHOD: ("classification_result", _classifications),
    REGRESS_METHOD: ("regression_result", _regressions),
}


def _tensor_infos(tensors: Sequence[Tensor]) -> dict[str, Any]:
    return {
        tensor.name: tensorflow.TensorInfo(
            name=tensor.name,
            dtype=TENSORFLOW_TYPES[tensor.dtype],
            tensor_shape={"dim": [{"size": -1 if n is None else n} for n in tensor.shape]},
        )
        for tensor in tensors
    }
