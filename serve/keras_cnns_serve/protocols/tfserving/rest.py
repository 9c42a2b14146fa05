"""TensorFlow Serving's REST protocol, version 1."""

import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from starlette.requests import Request as StarletteRequest
from starlette.responses import Response
from starlette.routing import Route

from keras_cnns_serve.core.json_text import dumps
from keras_cnns_serve.core.prediction import target_of
from keras_cnns_serve.protocols.requests import RestEndpoints, server_timing
from keras_cnns_serve.protocols.responding import LABEL_BYTES, NUMBER_BYTES, respond
from keras_cnns_serve.transport.http.asgi import FastRoute, Reply, Request
from keras_cnns_serve.transport.http.errors import error_reply, json_response

from .json import (
    format_predictions,
    format_results,
    parse_examples_request,
    parse_predict_request,
)
from .service import (
    CLASSIFY_METHOD,
    REGRESS_METHOD,
    infer_examples,
    model_version_status,
    signature_def,
)

# TensorFlow Serving ignores the case of these paths.
TARGET = r"/v1/models/(?P<model>[^/:]+)(?:/versions/(?P<version>[^/:]+)|/labels/(?P<label>[^/:]+))?"


class TensorFlowServingRest(RestEndpoints):
    """The endpoints of version 1 of the protocol."""

    def fast_routes(self) -> list[FastRoute]:
        """Return the routes of inference."""
        verbs: dict[str, Callable[[Request], Awaitable[Reply]]] = {
            "predict": self.predict,
            "classify": partial(self.examples, CLASSIFY_METHOD),
            "regress": partial(self.examples, REGRESS_METHOD),
        }
        return [
            FastRoute("POST", re.compile(f"{TARGET}:{verb}", re.IGNORECASE), endpoint, error_reply)
            for verb, endpoint in verbs.items()
        ]

    def routes(self) -> list[Route]:
        """Return the other routes."""
        model = "/v1/models/{model:model}"
        return [
            Route("/v1/models", self.models, methods=["GET"]),
            *(
                Route(model + version + path, endpoint, methods=["GET"])
                for version in ("", "/versions/{version:model}", "/labels/{label:model}")
                for path, endpoint in [("/metadata", self.metadata), ("", self.status)]
            ),
        ]

    async def models(self, request: StarletteRequest) -> Response:
        """Answer GET /v1/models with the served models."""
        models = [
            {
                "name": model.name,
                "versions": list(map(str, model.versions)),
                "input": model.input,  # becomes an object with name, dtype and shape
                "outputs": [output.name for output in model.outputs],
                "labels": len(model.labels),
            }
            for model in self._dataplane.models()
        ]
        return json_response(dumps({"models": models}))

    async def status(self, request: StarletteRequest) -> Response:
        """Answer GET .../{m}[/versions/{v}|/labels/{l}] with the states of versions."""
        states = model_version_status(self._dataplane, target_of(**request.path_params))
        return json_response(dumps({"model_version_status": states}))

    async def metadata(self, request: StarletteRequest) -> Response:
        """Answer GET .../metadata with the signatures of a version."""
        target = target_of(**request.path_params)
        source = self._dataplane.metadata(target)
        spec = {"name": source.name, "signature_name": "", "version": str(source.version)}
        signatures = signature_def(source.manifest)
        engine = self._dataplane.engine_info(target)
        metadata: dict[str, Any] = {"signature_def": signatures, "engine": engine}
        if source.manifest.thresholds:
            metadata["thresholds"] = source.manifest.thresholds
        return json_response(dumps({"model_spec": spec, "metadata": metadata}))

    async def predict(self, request: Request) -> Reply:
        """Answer POST ...:predict with the outputs for pixels or encoded images."""
        target = target_of(**request.path.groupdict())
        # Raises an error for an unknown model before the body, which can be large, is received.
        manifest = self._dataplane.metadata(target).manifest
        deadline = self._deadline(request)
        body = await self._json_body(request, deadline)
        parsed = await self._parse_json(
            request,
            deadline,
            manifest.input,
            len(body),
            len(body),
            parse_predict_request,
            body,
            manifest,
        )
        with request.cancelled_on_disconnect():
            if parsed.contents:
                prediction = await self._dataplane.predict_bytes(
                    target, parsed.contents, deadline=deadline
                )
            else:
                prediction = await self._dataplane.predict(target, parsed.inputs, deadline=deadline)
        count = sum(values.size for values in prediction.outputs.values())
        answer = await respond(
            self._dataplane.budget,
            deadline,
            count,
            count * NUMBER_BYTES,
            format_predictions,
            prediction.outputs,
            parsed.format,
        )
        return Reply(answer, headers=[server_timing(prediction.timing)])

    async def examples(self, method: str, request: Request) -> Reply:
        """Answer POST ...:classify with labels, and ...:regress with numbers, for tf.Examples."""
        target = target_of(**request.path.groupdict())
        self._dataplane.metadata(target)  # raises an error before the body is received
        deadline = self._deadline(request)
        body = await self._json_body(request, deadline)
        parsed = await self._parse_json(
            request, deadline, None, len(body), len(body), parse_examples_request, body
        )
        with request.cancelled_on_disconnect():
            prediction, values = await infer_examples(
                self._dataplane, target, parsed.signature_name, parsed.contents, method, deadline
            )
        answer = await respond(
            self._dataplane.budget,
            deadline,
            values.size,
            values.size * LABEL_BYTES,
            format_results,
            values,
            prediction.source.labels,
        )
        return Reply(answer, headers=[server_timing(prediction.timing)])
