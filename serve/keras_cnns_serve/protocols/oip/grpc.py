"""The Open Inference Protocol over gRPC, with Triton's extensions."""

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from numpy.typing import NDArray

from keras_cnns_serve.core.dataplane import Dataplane
from keras_cnns_serve.core.prediction import Prediction, Target, target_of
from keras_cnns_serve.errors import InvalidInputError, ServeError
from keras_cnns_serve.protocols.parsing import parse
from keras_cnns_serve.protocols.responding import respond
from keras_cnns_serve.protos import inference
from keras_cnns_serve.transport.grpc.server import Service

from . import service
from .tensor import DATATYPES, from_raw, from_values, to_raw

# The field of each datatype for values that are not raw. The protocol has no such field for FP16
# and BF16.
_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def _target(request: Any) -> Target:
    return target_of(request.name, request.version)


# For each method that only returns a description: a function that returns the response's fields.
_DESCRIPTIONS: dict[str, Callable[[Dataplane, Any], dict[str, Any]]] = {
    "ServerLive": lambda dataplane, request: {"live": True},
    "ServerReady": lambda dataplane, request: {"ready": dataplane.ready()},
    "ServerMetadata": lambda dataplane, request: service.server_metadata(),
    "ModelReady": lambda dataplane, request: {"ready": dataplane.ready(_target(request))},
    "ModelMetadata": lambda dataplane, request: service.model_metadata(dataplane, _target(request)),
    "ModelConfig": lambda dataplane, request: {
        "config": service.model_config(dataplane, _target(request))
    },
    "ModelStatistics": lambda dataplane, request: service.statistics(
        dataplane, _target(request) if request.name else None
    ),
    "RepositoryIndex": lambda dataplane, request: {
        "models": service.repository_index(dataplane, request.ready)
    },
}


class OpenInferenceGrpc:
    """The service GRPCInferenceService.

    Args:
        dataplane: the data plane.
    """

    def __init__(self, dataplane: Dataplane) -> None:
        self._dataplane = dataplane

    def service(self) -> Service:
        """Return the service with its methods."""
        unary = {
            "ModelInfer": self.model_infer,
            "RepositoryModelLoad": self.repository_model_load,
            "RepositoryModelUnload": self.repository_model_unload,
        } | {name: partial(self.describe, name) for name in _DESCRIPTIONS}
        streaming = {"ModelStreamInfer": self.model_stream_infer}
        return Service(inference.service("GRPCInferenceService"), unary, streaming)

    async def describe(self, method: str, request: Any, deadline: float | None) -> Any:
        """Answer a method that describes the server, a model or the repository."""
        fields = _DESCRIPTIONS[method](self._dataplane, request)
        return getattr(inference, f"{method}Response")(**fields)

    async def repository_model_load(self, request: Any, deadline: float | None) -> Any:
        """Load a model; if it is already loaded, load it again."""
        self._dataplane.check_admin()
        service.check_load(request.parameters)
        await self._dataplane.load(request.model_name, deadline)
        return inference.RepositoryModelLoadResponse()

    async def repository_model_unload(self, request: Any, deadline: float | None) -> Any:
        """Stop serving a model."""
        await self._dataplane.unload(request.model_name, deadline)
        return inference.RepositoryModelUnloadResponse()

    async def model_infer(self, request: Any, deadline: float | None) -> Any:
        """Return the requested outputs for tensors of pixels or encoded images."""
        arrived = time.monotonic()
        target = target_of(request.model_name, request.model_version)
        self._dataplane.metadata(
            target
        )  # raises an error for an unknown model before the tensors are checked
        # BF16 is converted, and values outside raw_input_contents are slow to parse.
        is_converted = any(tensor.datatype == "BF16" for tensor in request.inputs)
        slow = is_converted or not request.raw_input_contents
        size = request.ByteSize() if slow else 0
        with self._dataplane.budget.claim(2 * size if is_converted else 0):
            inputs, options = await parse(size, deadline, _parse_infer_request, request)
            prediction, outputs = await service.infer(
                self._dataplane, target, inputs, options, arrived, deadline
            )
        return await respond(
            self._dataplane.budget,
            deadline,
            sum(array.size for _, array in outputs),
            service.response_memory(outputs, all_binary=True),
            _infer_response,
            prediction,
            outputs,
            options.id,
        )

    async def model_stream_infer(
        self, requests: AsyncIterator[Any], deadline: Callable[[], float | None]
    ) -> AsyncIterator[Any]:
        """Answer the requests of a stream in order; an error does not end the stream."""
        async for request in requests:
            try:
                response = await self.model_infer(request, deadline())
                yield inference.ModelStreamInferResponse(infer_response=response)
            except ServeError as error:
                yield inference.ModelStreamInferResponse(
                    error_message=str(error), infer_response={"id": request.id}
                )


def _parse_infer_request(request: Any) -> tuple[dict[str, NDArray[Any]], service.InferOptions]:
    raw = request.raw_input_contents
    if raw and request.inputs and len(raw) != len(request.inputs):
        raise InvalidInputError(
            f"raw_input_contents must have one tensor for each of the {len(request.inputs)} "
            f"inputs, but it has {len(raw)}"
        )
    inputs: dict[str, NDArray[Any]] = {}
    for number, tensor in enumerate(request.inputs):
        name, datatype, shape = tensor.name, tensor.datatype, list(tensor.shape)
        service.check_input(name, tensor.parameters, inputs)
        if raw:
            if tensor.HasField("contents"):
                raise InvalidInputError(f"{name} has both contents and raw_input_contents")
            inputs[name] = from_raw(raw[number], datatype, shape, name)
        else:
            values = getattr(tensor.contents, _CONTENTS.get(datatype, "fp32_contents"))
            inputs[name] = from_values(values, datatype, shape, name)
    outputs = [
        service.requested_output(output.name, _parameters(output.parameters))
        for output in request.outputs
    ]
    return inputs, service.infer_options(_parameters(request.parameters), outputs, request.id)


def _infer_response(
    prediction: Prediction,
    outputs: Sequence[tuple[service.RequestedOutput, NDArray[Any]]],
    request_id: str,
) -> Any:
    return inference.ModelInferResponse(
        model_name=prediction.source.name,
        model_version=str(prediction.source.version),
        id=request_id,
        outputs=[
            {"name": output.name, "datatype": DATATYPES[array.dtype], "shape": array.shape}
            for output, array in outputs
        ],
        raw_output_contents=[to_raw(array) for _, array in outputs],
    )


def _parameters(proto: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: getattr(value, choice)
        for name, value in proto.items()
        if (choice := value.WhichOneof("parameter_choice"))
    }
