"""The Open Inference Protocol without its transports: REST and gRPC both translate to this.

What describes something is a dict of JSON, whose keys are also the fields of the gRPC messages.
https://github.com/kserve/open-inference-protocol, and Triton's extensions of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dataplane import Dataplane, Prediction, Target, Total
from .errors import InvalidInputError, ModelNotFoundError
from .inputs import MAX_IMAGES
from .manifest import Tensor
from .servable import State
from .v2_tensor import DATATYPES

SERVER = "keras-cnns-serve"
EXTENSIONS = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
]
IMAGE_BYTES = "image_bytes"  # encoded images, as the exported signature names them
STATES = {
    State.START: "LOADING",
    State.LOADING: "LOADING",
    State.AVAILABLE: "READY",
    State.UNLOADING: "UNLOADING",
    State.END: "UNAVAILABLE",
}


@dataclass(frozen=True, slots=True)
class WantedOutput:
    """An output that a request asks for."""

    name: str
    classes: int = 0  # of the classification extension: that many labels; 0: the values
    binary: bool = False  # over HTTP: raw, after the JSON


@dataclass(frozen=True, slots=True)
class InferRequest:
    """What an infer request brings."""

    inputs: Mapping[str, NDArray[Any]]
    outputs: Sequence[WantedOutput]  # none: all of them
    id: str = ""
    priority: int = 0
    timeout: float | None = None  # seconds
    binary: bool = False  # over HTTP: where all outputs are wanted, raw


def target_of(name: str, version: str | None) -> Target:
    """The model, with its version if it has one.

    Raises:
        ModelNotFoundError: the version is no number.
    """
    if not version:
        return Target(name)
    if not (version.isascii() and version.isdigit() and len(version) < 20):
        raise ModelNotFoundError(f"a version is an integer, not {version!r:.40}")
    return Target(name, int(version))


def check_load(parameters: Any) -> None:
    """A model is served as it lies in the repository.

    Raises:
        InvalidInputError: a client sends another configuration, or files.
    """
    if parameters:
        given = ", ".join(parameters) if isinstance(parameters, Mapping) else repr(parameters)
        raise InvalidInputError(
            f"a model is loaded as it lies in the repository, without parameters: {given:.80}"
        )


def scheduling(parameters: Mapping[str, Any]) -> tuple[int, float | None]:
    """A request's priority, and its timeout in seconds, which it gives in microseconds.

    Raises:
        InvalidInputError: one is not an integer of at least 0.
    """
    timeout = whole(parameters, "timeout")
    return whole(parameters, "priority"), timeout / 1e6 if timeout else None


def whole(parameters: Mapping[str, Any], name: str) -> int:
    """A parameter that counts something; 0 without it.

    Raises:
        InvalidInputError: it is not an integer of at least 0.
    """
    value = parameters.get(name, 0)
    if type(value) is not int or not 0 <= value < 2**64:
        raise InvalidInputError(
            f"the parameter {name} must be an integer of at least 0, not {value!r:.40}"
        )
    return value


def check_input(parameters: Mapping[str, Any], name: str) -> None:
    """Tensors come in the request itself.

    Raises:
        InvalidInputError: this one is said to lie in shared memory.
    """
    if "shared_memory_region" in parameters:
        raise InvalidInputError(f"{name} is in shared memory, which this server does not read")


async def infer(
    dataplane: Dataplane, target: Target, request: InferRequest, deadline: float | None
) -> tuple[Prediction, list[tuple[WantedOutput, NDArray[Any]]]]:
    """Answers an infer request: BYTES are encoded images, numbers are pixels.

    Raises:
        InvalidInputError: an output is asked for twice, or has no labels to classify.
        As for `Dataplane.predict` and `Dataplane.predict_bytes`.
    """
    names = [wanted.name for wanted in request.outputs]
    if len(set(names)) != len(names):
        raise InvalidInputError("an output is asked for twice")
    encoded = {n: a for n, a in request.inputs.items() if a.dtype == np.object_}
    if encoded:
        prediction = await dataplane.predict_bytes(
            target,
            _contents(dataplane, target, request.inputs),
            outputs=names,
            deadline=deadline,
            priority=request.priority,
        )
    else:
        prediction = await dataplane.predict(
            target, request.inputs, outputs=names, deadline=deadline, priority=request.priority
        )
    wanted = request.outputs or [
        WantedOutput(name, binary=request.binary) for name in prediction.outputs
    ]
    return prediction, [
        (each, _classes(prediction, each) if each.classes else prediction.outputs[each.name])
        for each in wanted
    ]


def _contents(
    dataplane: Dataplane, target: Target, inputs: Mapping[str, NDArray[Any]]
) -> list[bytes]:
    names = (dataplane.metadata(target).manifest.input.name, IMAGE_BYTES)
    if len(inputs) != 1 or next(iter(inputs)) not in names:
        raise InvalidInputError(
            f"encoded images are the one input {' or '.join(names)}, not {', '.join(inputs):.80}"
        )
    (array,) = inputs.values()
    if array.ndim not in (1, 2) or array.shape[1:] not in ((), (1,)):
        raise InvalidInputError(
            f"encoded images have the shape [N] or [N, 1], not {list(array.shape)}"
        )
    return list(array.ravel())


def _classes(prediction: Prediction, wanted: WantedOutput) -> NDArray[Any]:
    """Strings `score:index:label` [N, k], the highest score first."""
    values, labels = prediction.outputs[wanted.name], prediction.source.labels
    if values.ndim != 2 or values.shape[1] != len(labels):
        raise InvalidInputError(
            f"{wanted.name} of shape {list(values.shape)} cannot be classified: it has not one "
            f"value for each of {len(labels)} labels"
        )
    best = np.argsort(-values, axis=1, kind="stable")[:, : wanted.classes]
    rows = [
        [f"{row[i]:f}:{i}:{labels[i]}".encode() for i in order]
        for row, order in zip(values, best, strict=True)
    ]
    return np.array(rows, np.object_).reshape(best.shape)


def server_metadata() -> dict[str, Any]:
    """What this server is."""
    return {"name": SERVER, "version": version(SERVER), "extensions": EXTENSIONS}


def model_metadata(dataplane: Dataplane, target: Target) -> dict[str, Any]:
    """What goes in and out of a version.

    Raises:
        ModelNotFoundError, ModelUnavailableError: as for `Dataplane.metadata`.
    """
    source = dataplane.metadata(target)
    served = {model.name: model.versions for model in dataplane.models()}
    return {
        "name": source.name,
        "versions": [str(number) for number in served.get(source.name, ())],
        "platform": "keras-cnns",
        "inputs": [_tensor(source.manifest.input)],
        "outputs": [_tensor(output) for output in source.manifest.outputs],
    }


def _tensor(tensor: Tensor) -> dict[str, Any]:
    datatype = DATATYPES[np.dtype(tensor.dtype)]
    shape = [-1 if size is None else size for size in tensor.shape]
    return {"name": tensor.name, "datatype": datatype, "shape": shape}


def model_config(dataplane: Dataplane, target: Target) -> dict[str, Any]:
    """A version as Triton's configuration describes it.

    Raises:
        ModelNotFoundError, ModelUnavailableError: as for `Dataplane.metadata`.
    """
    manifest = dataplane.metadata(target).manifest

    def tensor(each: Tensor) -> dict[str, Any]:
        datatype = DATATYPES[np.dtype(each.dtype)]
        sizes = [-1 if size is None else size for size in each.shape[1:]]
        return {"name": each.name, "data_type": f"TYPE_{datatype}", "dims": sizes}

    labelled = {"label_filename": manifest.labels}
    return {
        "name": target.name,
        "platform": "keras-cnns",
        "backend": SERVER,
        # Of pixels a request may have more; what measures a server wants to know how far to go.
        "max_batch_size": MAX_IMAGES,
        "input": [tensor(manifest.input) | {"format": "FORMAT_NHWC"}],
        "output": [
            tensor(each) | (labelled if each.shape == (None, manifest.classes) else {})
            for each in manifest.outputs
        ],
    }


def repository_index(dataplane: Dataplane, only_ready: bool = False) -> list[dict[str, Any]]:
    """Every model and version, with its state."""
    return [
        {
            "name": entry.name,
            "version": "" if entry.version is None else str(entry.version),
            "state": STATES[entry.state],
            "reason": entry.reason,
        }
        for entry in dataplane.index()
        if entry.state == State.AVAILABLE or not only_ready
    ]


def statistics(dataplane: Dataplane, target: Target | None) -> dict[str, Any]:
    """What versions have done: of one, of a model's, or of all.

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
