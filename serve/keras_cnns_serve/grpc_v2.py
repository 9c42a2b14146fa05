"""The Open Inference Protocol over gRPC, with Triton's extensions. It translates; `v2` answers."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from . import v2
from .admin import check_admin
from .dataplane import Dataplane
from .errors import InvalidInputError, ServeError
from .grpc_server import IN_THREAD, Service
from .protos import inference
from .v2_tensor import DATATYPES, from_raw, from_values, to_raw

# Where values stand that are not raw; FP16 and BF16 are always raw.
CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


class InferenceService:
    """GRPCInferenceService.

    Args:
        dataplane: what answers.
        admin: whether clients may load and unload models.
    """

    def __init__(self, dataplane: Dataplane, *, admin: bool = False) -> None:
        self._dataplane = dataplane
        self._admin = admin

    def service(self) -> Service:
        """Its methods."""
        unary = {
            "ModelInfer": self.model_infer,
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ModelReady": self.model_ready,
            "ServerMetadata": self.server_metadata,
            "ModelMetadata": self.model_metadata,
            "ModelConfig": self.model_config,
            "ModelStatistics": self.model_statistics,
            "RepositoryIndex": self.repository_index,
            "RepositoryModelLoad": self.repository_model_load,
            "RepositoryModelUnload": self.repository_model_unload,
        }
        streaming = {"ModelStreamInfer": self.model_stream_infer}
        return Service(inference.service("GRPCInferenceService"), unary, streaming)

    async def server_live(self, request: Any, deadline: float | None) -> Any:
        """The process answers."""
        return inference.ServerLiveResponse(live=True)

    async def server_ready(self, request: Any, deadline: float | None) -> Any:
        """Whether requests are welcome."""
        return inference.ServerReadyResponse(ready=self._dataplane.ready())

    async def model_ready(self, request: Any, deadline: float | None) -> Any:
        """Whether a model answers."""
        target = v2.target_of(request.name, request.version)
        return inference.ModelReadyResponse(ready=self._dataplane.ready(target))

    async def server_metadata(self, request: Any, deadline: float | None) -> Any:
        """The server's name, version and extensions."""
        return inference.ServerMetadataResponse(**v2.server_metadata())

    async def model_metadata(self, request: Any, deadline: float | None) -> Any:
        """Inputs and outputs."""
        target = v2.target_of(request.name, request.version)
        return inference.ModelMetadataResponse(**v2.model_metadata(self._dataplane, target))

    async def model_config(self, request: Any, deadline: float | None) -> Any:
        """Triton's configuration of the model."""
        target = v2.target_of(request.name, request.version)
        config = v2.model_config(self._dataplane, target)
        return inference.ModelConfigResponse(config=config)

    async def model_statistics(self, request: Any, deadline: float | None) -> Any:
        """Counts and durations, of one model or all."""
        target = v2.target_of(request.name, request.version) if request.name else None
        return inference.ModelStatisticsResponse(**v2.statistics(self._dataplane, target))

    async def repository_index(self, request: Any, deadline: float | None) -> Any:
        """Every model and version, with its state."""
        models = v2.repository_index(self._dataplane, request.ready)
        return inference.RepositoryIndexResponse(models=models)

    async def repository_model_load(self, request: Any, deadline: float | None) -> Any:
        """Loads a model, again or for the first time."""
        check_admin(self._admin)
        v2.check_load(request.parameters)
        await self._dataplane.load(request.model_name)
        return inference.RepositoryModelLoadResponse()

    async def repository_model_unload(self, request: Any, deadline: float | None) -> Any:
        """Serves a model no more."""
        check_admin(self._admin)
        await self._dataplane.unload(request.model_name)
        return inference.RepositoryModelUnloadResponse()

    async def model_infer(self, request: Any, deadline: float | None) -> Any:
        """Tensors in, tensors out."""
        target = v2.target_of(request.model_name, request.model_version)
        self._dataplane.metadata(target)  # before the tensors, which may be wrong for any model
        # Values one by one take long to read; the event loop has others to serve.
        if request.raw_input_contents or request.ByteSize() < IN_THREAD:
            parsed = parse_infer_request(request)
        else:
            parsed = await asyncio.to_thread(parse_infer_request, request)
        if parsed.timeout is not None:
            asked = time.monotonic() + parsed.timeout
            deadline = asked if deadline is None else min(asked, deadline)
        prediction, outputs = await v2.infer(self._dataplane, target, parsed, deadline)
        return inference.ModelInferResponse(
            model_name=prediction.source.name,
            model_version=str(prediction.source.version),
            id=parsed.id,
            outputs=[
                {"name": wanted.name, "datatype": DATATYPES[array.dtype], "shape": array.shape}
                for wanted, array in outputs
            ],
            raw_output_contents=[to_raw(array) for _, array in outputs],
        )

    async def model_stream_infer(
        self, requests: AsyncIterator[Any], deadline: Callable[[], float | None]
    ) -> AsyncIterator[Any]:
        """An answer to each request, in their order; an error ends its request, not the stream."""
        async for request in requests:
            try:
                response = await self.model_infer(request, deadline())
                yield inference.ModelStreamInferResponse(infer_response=response)
            except ServeError as error:
                yield inference.ModelStreamInferResponse(
                    error_message=str(error), infer_response={"id": request.id}
                )


def parse_infer_request(request: Any) -> v2.InferRequest:
    """Reads a ModelInferRequest.

    Raises:
        InvalidInputError: its tensors or its parameters are wrong.
        InputTooLargeError: a shape is that of no memory.
    """
    raw = request.raw_input_contents
    if not request.inputs:
        raise InvalidInputError("'inputs' must have at least one tensor")
    if raw and len(raw) != len(request.inputs):
        raise InvalidInputError(
            f"raw_input_contents has {len(raw)} tensors for {len(request.inputs)} inputs"
        )
    inputs: dict[str, NDArray[Any]] = {}
    for number, tensor in enumerate(request.inputs):
        name, datatype = tensor.name, tensor.datatype
        if name in inputs:
            raise InvalidInputError(f"the input {name!r:.80} comes twice")
        v2.check_input(tensor.parameters, name)
        if raw:
            if tensor.HasField("contents"):
                raise InvalidInputError(f"{name} has contents beside raw_input_contents")
            inputs[name] = from_raw(raw[number], datatype, list(tensor.shape), name)
        else:
            values = getattr(tensor.contents, CONTENTS.get(datatype, "fp32_contents"))
            inputs[name] = from_values(values, datatype, list(tensor.shape), name)
    priority, timeout = v2.scheduling(_parameters(request.parameters))
    outputs = []
    for output in request.outputs:
        parameters = _parameters(output.parameters)
        v2.check_input(parameters, output.name)
        outputs.append(v2.WantedOutput(output.name, v2.whole(parameters, "classification")))
    return v2.InferRequest(inputs, outputs, request.id, priority, timeout)


def _parameters(proto: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: getattr(value, choice)
        for name, value in proto.items()
        if (choice := value.WhichOneof("parameter_choice"))
    }
