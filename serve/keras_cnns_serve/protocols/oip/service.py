"""The part of the Open Inference Protocol that REST and gRPC share.

The server, a model and the repository are described by dicts for JSON. The keys of these dicts are
also the names of the fields of the gRPC messages.
https://github.com/kserve/open-inference-protocol, with Triton's extensions.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_cnns_serve.core.dataplane import Dataplane
from keras_cnns_serve.core.inputs import MAX_IMAGES
from keras_cnns_serve.core.metrics import Total
from keras_cnns_serve.core.prediction import Prediction, Target, best_indices
from keras_cnns_serve.core.thresholds import is_unknown, threshold_of
from keras_cnns_serve.errors import InvalidInputError
from keras_cnns_serve.protocols.parsing import bytes_array
from keras_cnns_serve.protocols.responding import LABEL_BYTES, NUMBER_BYTES, respond
from keras_cnns_serve.repository.manifest import Tensor
from keras_cnns_serve.repository.states import State

from .tensor import DATATYPES

_SERVER = "keras-cnns-serve"
_PLATFORM = "keras-cnns"
_EXTENSIONS = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
]
_IMAGE_BYTES = "image_bytes"  # name of the input for encoded images in the exported signature
_PROBABILITIES = "probabilities"
_UNKNOWN = "unknown"  # name of the additional output if a request has a threshold
_STATES = {
    State.START: "LOADING",
    State.LOADING: "LOADING",
    State.AVAILABLE: "READY",
    State.UNLOADING: "UNLOADING",
    State.END: "UNAVAILABLE",
}


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output that is requested."""

    name: str
    classes: int = 0  # number of labels to return (classification extension); 0: return the values
    binary: bool = False  # over REST, whether the values are returned as binary data after the JSON


@dataclass(frozen=True, slots=True)
class InferOptions:
    """The contents of an infer request, except its inputs."""

    outputs: Sequence[RequestedOutput] = ()  # if empty, all outputs
    id: str = ""
    priority: int = 0
    timeout: float | None = None  # seconds
    binary: bool = False  # over REST, the default of `RequestedOutput.binary`
    # Arguments of `threshold_of`; if one of them is given, the response has the output `unknown`.
    min_probability: Any = None
    min_accuracy: Any = None


def infer_options(
    parameters: Mapping[str, Any], outputs: Sequence[RequestedOutput], request_id: str
) -> InferOptions:
    """Return the options of a request; the parameter timeout is in microseconds.

    Raises:
        InvalidInputError: the timeout or the priority is not an integer of at least 0.
    """
    timeout = count_of(parameters, "timeout")
    return InferOptions(
        outputs,
        request_id,
        count_of(parameters, "priority"),
        timeout / 1e6 if timeout else None,
        parameters.get("binary_data_output") is True,
        parameters.get("min_probability"),
        parameters.get("min_accuracy"),
    )


def requested_output(
    name: str, parameters: Mapping[str, Any], binary: bool = False
) -> RequestedOutput:
    """Return a requested output; `binary` is the default of the parameter binary_data.

    Raises:
        InvalidInputError: the output is in shared memory, or a parameter is wrong.
    """
    _check_memory(name, parameters)
    binary = parameters.get("binary_data", binary) is True
    return RequestedOutput(name, count_of(parameters, "classification"), binary)


def check_input(name: str, parameters: Mapping[str, Any], others: Container[str]) -> None:
    """Raise InvalidInputError if an input is in shared memory or has the name of another input."""
    if name in others:
        raise InvalidInputError(f"the input {name!r:.80} is given twice")
    _check_memory(name, parameters)


def _check_memory(name: str, parameters: Mapping[str, Any]) -> None:
    if "shared_memory_region" in parameters:
        raise InvalidInputError(f"{name} is in shared memory, which is not supported")


def count_of(parameters: Mapping[str, Any], name: str) -> int:
    """Return a parameter that is a count, or 0 if it is missing.

    Raises:
        InvalidInputError: the parameter is not an integer of at least 0.
    """
    value = parameters.get(name, 0)
    if type(value) is not int or not 0 <= value < 2**64:
        raise InvalidInputError(
            f"the parameter {name} must be an integer of at least 0, not {value!r:.40}"
        )
    return value


def check_load(parameters: Any) -> None:
    """Raise InvalidInputError if a request to load a model has a configuration or files."""
    if parameters:
        names = ", ".join(parameters) if isinstance(parameters, Mapping) else repr(parameters)
        raise InvalidInputError(
            "parameters are not supported, because models are only loaded from the repository; the "
            f"request has {names:.80}"
        )


async def infer(
    dataplane: Dataplane,
    target: Target,
    inputs: Mapping[str, NDArray[Any]],
    options: InferOptions,
    arrived: float,
    deadline: float | None,
) -> tuple[Prediction, list[tuple[RequestedOutput, NDArray[Any]]]]:
    """Answer an infer request, whose inputs are BYTES (encoded images) or numbers (pixels).

    Args:
        dataplane: the data plane.
        target: the version.
        inputs: the tensors.
        options: the rest of the request.
        arrived: `time.monotonic()` at which the timeout in the request begins.
        deadline: as for `Dataplane.predict`; the timeout in the request can end earlier.

    Returns:
        The prediction, and the requested outputs with their values. If the request has a threshold,
        the last output is `unknown`, bool [N], which is True for an image whose highest probability
        is below the threshold.

    Raises:
        InvalidInputError: there is no input, an output is requested twice, labels are requested for
            an output that does not have one value for each label, or the threshold is wrong.
        Also the errors of `Dataplane.predict` and `Dataplane.predict_bytes`.
    """
    if not inputs:
        raise InvalidInputError("'inputs' must have at least one tensor")
    wanted = (options.min_probability, options.min_accuracy)
    has_threshold = threshold_of(dataplane.metadata(target), *wanted) is not None
    names = [output.name for output in options.outputs]
    if len(set(names)) != len(names):
        raise InvalidInputError("an output is requested twice")
    if has_threshold and names and _PROBABILITIES not in names:
        names.append(_PROBABILITIES)
    if options.timeout is not None:
        own_deadline = arrived + options.timeout
        deadline = own_deadline if deadline is None else min(own_deadline, deadline)
    limits: dict[str, Any] = {"deadline": deadline, "priority": options.priority}
    if any(array.dtype == np.object_ for array in inputs.values()):
        contents = _contents(dataplane, target, inputs)
        prediction = await dataplane.predict_bytes(target, contents, outputs=names, **limits)
    else:
        prediction = await dataplane.predict(target, inputs, outputs=names, **limits)
    outputs = options.outputs or [
        RequestedOutput(name, binary=options.binary) for name in prediction.outputs
    ]
    answers = []
    for each in outputs:
        values = prediction.outputs[each.name]
        if each.classes:
            count = len(values) * min(each.classes, len(prediction.source.labels))
            values = await respond(
                dataplane.budget,
                deadline,
                values.size,
                count * LABEL_BYTES,
                _classes,
                prediction,
                each,
            )
        answers.append((each, values))
    threshold = threshold_of(prediction.source, *wanted)
    if threshold is not None:
        highest = prediction.outputs[_PROBABILITIES].max(axis=1).tolist()  # may be NaN
        unknown = np.array([is_unknown(each, threshold) for each in highest])
        answers.append((RequestedOutput(_UNKNOWN, binary=options.binary), unknown))
    return prediction, answers


def response_memory(
    outputs: Sequence[tuple[RequestedOutput, NDArray[Any]]], *, all_binary: bool = False
) -> int:
    """Return the memory for making a response, in bytes.

    Args:
        outputs: the outputs with their values.
        all_binary: whether all outputs are binary, as over gRPC.
    """
    memory = 0
    for output, array in outputs:
        if array.dtype == np.object_:
            memory += array.size * LABEL_BYTES
        elif all_binary or output.binary:
            memory += 2 * array.nbytes
        else:
            memory += array.size * NUMBER_BYTES
    return memory


def _contents(
    dataplane: Dataplane, target: Target, inputs: Mapping[str, NDArray[Any]]
) -> list[bytes]:
    names = (dataplane.metadata(target).manifest.input.name, _IMAGE_BYTES)
    if len(inputs) != 1 or next(iter(inputs)) not in names:
        raise InvalidInputError(
            f"encoded images must be the only input, named {' or '.join(names)}, not "
            f"{', '.join(inputs):.80}"
        )
    (array,) = inputs.values()
    if array.ndim not in (1, 2) or array.shape[1:] not in ((), (1,)):
        raise InvalidInputError(
            f"encoded images must have the shape [N] or [N, 1], not {list(array.shape)}"
        )
    return list(array.ravel())


def _classes(prediction: Prediction, output: RequestedOutput) -> NDArray[Any]:
    """Return an array [N, k] of strings `score:index:label`, each row with the highest score first.

    k is the number of labels that the request asks for.
    """
    scores, labels = prediction.outputs[output.name], prediction.source.labels
    if scores.ndim != 2 or scores.shape[1] != len(labels):
        raise InvalidInputError(
            f"{output.name} of shape {list(scores.shape)} cannot be classified: it does not have "
            f"one value for each of {len(labels)} labels"
        )
    classes = [
        f"{values[i]:f}:{i}:{labels[i]}".encode()
        for row in scores
        for values in [row.tolist()]
        for i in best_indices(row, values, output.classes)
    ]
    return bytes_array(classes).reshape(len(scores), -1)


def server_metadata() -> dict[str, Any]:
    """Return the server's name, version and extensions."""
    return {"name": _SERVER, "version": version(_SERVER), "extensions": _EXTENSIONS}


def model_metadata(dataplane: Dataplane, target: Target) -> dict[str, Any]:
    """Return the inputs and outputs of a version.

    Raises:
        ModelNotFoundError, ModelUnavailableError: as for `Dataplane.metadata`.
    """
    source = dataplane.metadata(target)
    served = {model.name: model.versions for model in dataplane.models()}
    return {
        "name": source.name,
        "versions": [str(number) for number in served.get(source.name, ())],
        "platform": _PLATFORM,
        "inputs": [_tensor(source.manifest.input)],
        "outputs": [_tensor(output) for output in source.manifest.outputs],
    }


def _tensor(tensor: Tensor) -> dict[str, Any]:
    shape = [-1 if size is None else size for size in tensor.shape]
    return {"name": tensor.name, "datatype": DATATYPES[np.dtype(tensor.dtype)], "shape": shape}


def model_config(dataplane: Dataplane, target: Target) -> dict[str, Any]:
    """Return Triton's configuration of a version.

    Raises:
        ModelNotFoundError, ModelUnavailableError: as for `Dataplane.metadata`.
    """
    manifest = dataplane.metadata(target).manifest

    def tensor(each: Tensor) -> dict[str, Any]:
        name, datatype, shape = _tensor(each).values()
        return {"name": name, "data_type": f"TYPE_{datatype}", "dims": shape[1:]}

    labelled = {"label_filename": manifest.labels}
    engine = dataplane.engine_info(target)
    return {
        "name": target.name,
        "platform": _PLATFORM,
        "default_model_filename": engine["file"],
        "parameters": {key: {"string_value": str(value)} for key, value in engine.items()},
        "backend": _SERVER,
        # The limit for encoded images. A request with pixels can have more images, but benchmarking
        # tools use this number as their maximum batch size.
        "max_batch_size": MAX_IMAGES,
        "input": [tensor(manifest.input) | {"format": "FORMAT_NHWC"}],
        "output": [
            tensor(each) | (labelled if each.shape == (None, manifest.classes) else {})
            for each in manifest.outputs
        ],
    }


def repository_index(dataplane: Dataplane, only_ready: bool = False) -> list[dict[str, Any]]:
    """Return all models and versions, or only those that are ready, with their states."""
    return [
        {
            "name": entry.name,
            "version": "" if entry.version is None else str(entry.version),
            "state": _STATES[entry.state],
            "reason": entry.reason,
        }
        for entry in dataplane.index()
        if entry.state == State.AVAILABLE or not only_ready
    ]


def statistics(dataplane: Dataplane, target: Target | None) -> dict[str, Any]:
    """Return the counts and durations of a version, of all versions of a model, or of all models.

    Raises:
        ModelNotFoundError, ModelUnavailableError: as for `Dataplane.metadata`.
    """
    targets = [Target(model.name) for model in dataplane.models()] if target is None else [target]
    return {
        "model_stats": [
            {
                "name": each.name,
                "version": str(each.version),
                "last_inference": round(each.last_inference * 1e3),  # milliseconds
                "inference_count": each.inferences,
                "execution_count": each.executions,
                "inference_stats": {
                    "success": _duration(each.success),
                    "fail": _duration(each.fail),
                    "queue": _duration(each.queue),
                    "compute_input": _duration(each.decode),
                    "compute_infer": _duration(each.compute),
                    "compute_output": _duration(Total()),
                },
                "batch_stats": [
                    {
                        "batch_size": size,
                        "compute_input": _duration(Total()),
                        "compute_infer": _duration(total),
                        "compute_output": _duration(Total()),
                    }
                    for size, total in sorted(each.batches.items())
                ],
            }
            for one in targets
            for each in dataplane.statistics(one)
        ]
    }


def _duration(total: Total) -> dict[str, int]:
    return {"count": total.count, "ns": round(total.seconds * 1e9)}
