"""TensorFlow Serving's REST protocol, version 1. It translates; `dataplane` answers."""

import asyncio
import re
from collections.abc import Callable
from typing import Any

from starlette.requests import Request as StarletteRequest
from starlette.responses import Response
from starlette.routing import Route

from . import errors
from .asgi import FastRoute, Reply, Request
from .dataplane import Dataplane, ModelSummary, Target, Timing, VersionStatus
from .http_errors import failed, json_response
from .json_tensor import (
    dumps,
    format_predictions,
    parse_examples_request,
    parse_predict_request,
)
from .manifest import Tensor
from .repository import ModelVersion
from .signatures import (
    CLASSIFY_METHOD,
    REGRESS_METHOD,
    TENSORFLOW_TYPES,
    examples_output,
    signatures,
)

# TensorFlow Serving ignores the case of these paths.
TARGET = r"/v1/models/(?P<model>[^/:]+)(?:/versions/(?P<version>[^/:]+)|/labels/(?P<label>[^/:]+))?"
IN_THREAD = 100_000  # bytes; JSON of this length takes longer to parse than a thread to wake


class Rest:
    """The endpoints of version 1.

    Args:
        dataplane: what answers.
        timeout: seconds that a request may take, if it does not say.
    """

    def __init__(self, dataplane: Dataplane, timeout: float | None = None) -> None:
        self._dataplane = dataplane
        self._timeout = timeout

    def fast_routes(self) -> list[FastRoute]:
        """What is asked most."""
        verbs = {"predict": self.predict, "classify": self.classify, "regress": self.regress}
        return [
            FastRoute("POST", re.compile(f"{TARGET}:{verb}", re.IGNORECASE), endpoint, failed)
            for verb, endpoint in verbs.items()
        ]

    def routes(self) -> list[Route]:
        """The rest."""
        model = "/v1/models/{model:model}"
        return [
            Route("/v1/models", self.models, methods=["GET"]),
            *(
                Route(base + path, endpoint, methods=["GET"])
                for base in (
                    model,
                    f"{model}/versions/{{version:model}}",
                    f"{model}/labels/{{label:model}}",
                )
                for path, endpoint in [("/metadata", self.metadata), ("", self.status)]
            ),
        ]

    async def models(self, request: StarletteRequest) -> Response:
        """GET /v1/models: the models that answer."""
        models = [_summary(model) for model in self._dataplane.models()]
        return json_response(dumps({"models": models}))

    async def status(self, request: StarletteRequest) -> Response:
        """GET .../{m}[/versions/{v}|/labels/{l}]: TensorFlow Serving's model_version_status."""
        states = self._dataplane.status(target_of(request.path_params))
        return json_response(dumps({"model_version_status": [_status(s) for s in states]}))

    async def metadata(self, request: StarletteRequest) -> Response:
        """GET .../metadata: TensorFlow Serving's signature_def."""
        source = self._dataplane.metadata(target_of(request.path_params))
        return json_response(dumps(_metadata(source)))

    async def predict(self, request: Request) -> Reply:
        """POST ...:predict: pixels or encoded images as JSON in, the named outputs as JSON out."""
        target = target_of(request.path.groupdict())
        manifest = self._dataplane.metadata(target).manifest  # before the body, which may be long
        deadline = deadline_of(request, self._timeout)
        body = await request.body()
        parsed = await _parsed(parse_predict_request, body, manifest)
        with request.watched():
            if parsed.contents:
                prediction = await self._dataplane.predict_bytes(
                    target, parsed.contents, deadline=deadline
                )
            else:
                prediction = await self._dataplane.predict(target, parsed.inputs, deadline=deadline)
        return Reply(
            format_predictions(prediction.outputs, parsed.form),
            headers=[server_timing(prediction.timing)],
        )

    async def classify(self, request: Request) -> Reply:
        """POST ...:classify: tf.Examples in, every label with its score out."""
        return await self._examples(request, CLASSIFY_METHOD)

    async def regress(self, request: Request) -> Reply:
        """POST ...:regress: tf.Examples in, one number for each out."""
        return await self._examples(request, REGRESS_METHOD)

    async def _examples(self, request: Request, method: str) -> Reply:
        target = target_of(request.path.groupdict())
        source = self._dataplane.metadata(target)
        deadline = deadline_of(request, self._timeout)
        parsed = await _parsed(parse_examples_request, await request.body())
        output = examples_output(source.manifest, parsed.signature_name, method)
        with request.watched():
            prediction = await self._dataplane.predict_bytes(
                target, parsed.contents, outputs=(output,), deadline=deadline
            )
        values = prediction.outputs[output]
        results: Any = values.reshape(-1)
        if method == CLASSIFY_METHOD:
            labels = prediction.source.labels
            results = [list(map(list, zip(labels, row, strict=True))) for row in values]
        return Reply(dumps({"results": results}), headers=[server_timing(prediction.timing)])


def target_of(path: dict[str, Any]) -> Target:
    """The model with its version or label, of a path's parameters.

    Raises:
        ModelNotFoundError: the version is no number.
    """
    version = path.get("version")
    if version is not None and not re.fullmatch("[0-9]{1,19}", version):
        raise errors.ModelNotFoundError(f"a version is an integer, not {version!r:.40}")
    return Target(path["model"], None if version is None else int(version), path.get("label"))


def deadline_of(request: Request, timeout: float | None) -> float | None:
    """When the request's time is over, as its header X-Request-Timeout says, or by `timeout`.

    Raises:
        InvalidInputError: the header is no number of seconds.
    """
    text = request.header(b"x-request-timeout")
    if text is not None:
        if not re.fullmatch(r"\d{1,9}(\.\d{0,9})?", text):
            raise errors.InvalidInputError(
                f"X-Request-Timeout must be a number of seconds, not {text!r:.40}"
            )
        asked = float(text)
        timeout = asked if timeout is None else min(asked, timeout)
    return None if timeout is None else request.arrived + timeout


def server_timing(timing: Timing) -> tuple[bytes, bytes]:
    """The header Server-Timing: milliseconds in the queue, decoding and computing."""
    milliseconds = (timing.queue * 1e3, timing.decode * 1e3, timing.compute * 1e3)
    return b"server-timing", b"queue;dur=%.3f, decode;dur=%.3f, compute;dur=%.3f" % milliseconds


async def _parsed(parse: Callable[..., Any], body: bytes, *arguments: Any) -> Any:
    """Parses a body; a long one beside the event loop."""
    if len(body) < IN_THREAD:
        return parse(body, *arguments)
    return await asyncio.to_thread(parse, body, *arguments)


def _summary(model: ModelSummary) -> dict[str, Any]:
    return {
        "name": model.name,
        "versions": [str(version) for version in model.versions],
        "input": {
            "name": model.input.name,
            "dtype": model.input.dtype,
            "shape": model.input.shape,
        },
        "outputs": [output.name for output in model.outputs],
        "labels": len(model.labels),
    }


def _status(state: VersionStatus) -> dict[str, Any]:
    return {
        "version": str(state.version),  # protobuf writes int64 as a string
        "state": state.state,
        "status": {"error_code": state.code, "error_message": state.message},
    }


def _metadata(source: ModelVersion) -> dict[str, Any]:
    described = {
        name: {
            "inputs": _tensor_infos(signature.inputs),
            "outputs": _tensor_infos(signature.outputs),
            "method_name": signature.method,
        }
        for name, signature in signatures(source.manifest).items()
    }
    return {
        "model_spec": {"name": source.name, "signature_name": "", "version": str(source.version)},
        "metadata": {"signature_def": {"signature_def": described}},
    }


def _tensor_infos(tensors: tuple[Tensor, ...]) -> dict[str, Any]:
    return {
        tensor.name: {
            "dtype": TENSORFLOW_TYPES[tensor.dtype],
            "tensor_shape": {
                "dim": [
                    {"size": str(-1 if size is None else size), "name": ""} for size in tensor.shape
                ],
                "unknown_rank": False,
            },
            "name": tensor.name,
        }
        for tensor in tensors
    }
