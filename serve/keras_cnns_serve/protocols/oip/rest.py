"""The Open Inference Protocol over REST, with Triton's extensions."""

import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.requests import Request as StarletteRequest
from starlette.responses import Response
from starlette.routing import Route

from keras_cnns_serve.core.dataplane import Dataplane
from keras_cnns_serve.core.json_text import dumps, loads
from keras_cnns_serve.core.prediction import Target, target_of
from keras_cnns_serve.errors import InputTooLargeError, InvalidInputError
from keras_cnns_serve.protocols.requests import RestEndpoints, server_timing
from keras_cnns_serve.protocols.responding import respond
from keras_cnns_serve.transport.http.asgi import FastRoute, Reply, Request
from keras_cnns_serve.transport.http.errors import error_reply, json_response

from . import service
from .json import (
    HEADER_LENGTH,
    format_infer_response,
    header_length,
    parse_infer_request,
    raw_infer_request,
)

_MAX_DOCUMENT_BYTES = 2**16  # maximum size of a body, except for inference
_INFER = re.compile(r"/v2/models/(?P<model>[^/:]+)(?:/versions/(?P<version>[^/:]+))?/infer")


class OpenInferenceRest(RestEndpoints):
    """The endpoints of version 2 of the protocol."""

    def fast_routes(self) -> list[FastRoute]:
        """Return the route of inference."""
        return [FastRoute("POST", _INFER, self.infer, error_reply)]

    def routes(self) -> list[Route]:
        """Return the other routes."""
        get = {
            "/v2": self.server_metadata,
            "/v2/health/live": self.live,
            "/v2/health/ready": self.ready,
            "/v2/models/stats": self.statistics,
        }
        for model in ("/v2/models/{model:model}", "/v2/models/{model:model}/versions/{version}"):
            get |= {
                model: partial(self.describe, service.model_metadata),
                f"{model}/ready": self.model_ready,
                f"{model}/config": partial(self.describe, service.model_config),
                f"{model}/stats": partial(self.describe, service.statistics),
            }
        post = {
            "/v2/repository/index": self.index,
            "/v2/repository/models/{model:model}/load": self.load,
            "/v2/repository/models/{model:model}/unload": self.unload,
        }
        return [
            *(Route(path, endpoint, methods=["GET"]) for path, endpoint in get.items()),
            *(Route(path, endpoint, methods=["POST"]) for path, endpoint in post.items()),
        ]

    async def live(self, request: StarletteRequest) -> Response:
        """Answer GET /v2/health/live with 200 while the process runs."""
        return json_response(dumps({"live": True}))

    async def ready(self, request: StarletteRequest) -> Response:
        """Answer GET /v2/health/ready with 200 while requests are accepted, otherwise with 503."""
        ready = self._dataplane.ready()
        return json_response(dumps({"ready": ready}), 200 if ready else 503)

    async def server_metadata(self, request: StarletteRequest) -> Response:
        """Answer GET /v2 with the server's name, version and extensions."""
        return json_response(dumps(service.server_metadata()))

    async def statistics(self, request: StarletteRequest) -> Response:
        """Answer GET /v2/models/stats with the counts and durations of all models."""
        return json_response(dumps(service.statistics(self._dataplane, None)))

    async def model_ready(self, request: StarletteRequest) -> Response:
        """Answer GET .../ready with 200 if the model is ready, 503 if not, 404 if unknown."""
        target = target_of(**request.path_params)
        ready = self._dataplane.ready(target)
        if not ready:
            self._dataplane.status(target)  # raises an error if the model does not exist
        body = dumps({"name": target.name, "ready": ready})
        return json_response(body, 200 if ready else 503)

    async def describe(
        self, function: Callable[[Dataplane, Target], dict[str, Any]], request: StarletteRequest
    ) -> Response:
        """Answer GET /v2/models/{m}[/versions/{v}][/config|/stats] with a description."""
        return json_response(dumps(function(self._dataplane, target_of(**request.path_params))))

    async def index(self, request: StarletteRequest) -> Response:
        """Answer POST /v2/repository/index with all models and versions and their states."""
        ready = (await _document(request)).get("ready", False)
        if not isinstance(ready, bool):
            raise InvalidInputError("'ready' must be true or false")
        return json_response(dumps(service.repository_index(self._dataplane, ready)))

    async def load(self, request: StarletteRequest) -> Response:
        """Answer POST /v2/repository/models/{m}/load: load a model, even if it is loaded."""
        self._dataplane.check_admin()
        service.check_load((await _document(request)).get("parameters"))
        await self._dataplane.load(request.path_params["model"], self._change_deadline(request))
        return json_response(b"{}")

    async def unload(self, request: StarletteRequest) -> Response:
        """Answer POST /v2/repository/models/{m}/unload: stop serving a model."""
        await self._dataplane.unload(request.path_params["model"], self._change_deadline(request))
        return json_response(b"{}")

    def _change_deadline(self, request: StarletteRequest) -> float | None:
        return self._deadline_of(request.headers.get("x-request-timeout"), time.monotonic())

    async def infer(self, request: Request) -> Reply:
        """Answer POST .../infer with the outputs for tensors of pixels or encoded images."""
        target = target_of(**request.path.groupdict())
        # Raises an error for an unknown model before the body, which can be large, is received.
        manifest = self._dataplane.metadata(target).manifest
        deadline = self._deadline(request)
        length_header = request.header(HEADER_LENGTH)
        if length_header is None:
            body = await self._json_body(request, deadline)
        else:
            body = await request.body(deadline)
        length = header_length(length_header, len(body))
        if not length and body:
            inputs, options = raw_infer_request(body, manifest.input)
        else:
            slow = _slow_bytes(body, length)
            if slow > length:
                request.claim.add(2 * (len(body) - length))
            inputs, options = await self._parse_json(
                request, deadline, manifest.input, length, slow, parse_infer_request, body, length
            )
        with request.cancelled_on_disconnect():
            prediction, outputs = await service.infer(
                self._dataplane, target, inputs, options, request.arrived, deadline
            )
        reply = await respond(
            self._dataplane.budget,
            deadline,
            sum(array.size for _, array in outputs),
            service.response_memory(outputs),
            format_infer_response,
            prediction,
            outputs,
            options.id,
        )
        reply.headers.append(server_timing(prediction.timing))
        return reply


def _slow_bytes(body: bytes, length: int) -> int:
    """Return the number of bytes of a body that are slow to parse.

    These are the bytes of the JSON, and of the binary data if it may be BF16 or base64, which are
    converted. With a backslash, JSON can write these words in other ways.
    """
    if length == len(body):
        return length
    head = body[:length]
    return len(body) if any(each in head for each in (b"BF16", b"base64", b"\\")) else length


async def _document(request: StarletteRequest) -> dict[str, Any]:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _MAX_DOCUMENT_BYTES:
            raise InputTooLargeError(
                f"the body has more than {_MAX_DOCUMENT_BYTES:,} bytes, the limit of this path"
            )
    document = loads(body) if body else {}
    if not isinstance(document, dict):
        raise InvalidInputError("the body must be an object")
    return document
