"""The Open Inference Protocol over REST, with Triton's extensions. It translates; `v2` answers."""

import asyncio
import re
from typing import Any

from starlette.requests import Request as StarletteRequest
from starlette.responses import Response
from starlette.routing import Route

from . import v2
from .admin import check_admin
from .asgi import FastRoute, Reply, Request
from .dataplane import Dataplane, Target
from .errors import InvalidInputError
from .http_errors import failed, json_response
from .json_tensor import dumps, loads
from .rest import IN_THREAD, deadline_of, server_timing
from .v2_json import (
    HEADER_LENGTH,
    format_infer_response,
    header_length,
    parse_infer_request,
    raw_infer_request,
)

INFER = re.compile(r"/v2/models/(?P<model>[^/:]+)(?:/versions/(?P<version>[^/:]+))?/infer")


class RestV2:
    """The endpoints of version 2.

    Args:
        dataplane: what answers.
        timeout: seconds that a request may take, if it does not say.
        admin: whether clients may load and unload models.
    """

    def __init__(
        self, dataplane: Dataplane, timeout: float | None = None, *, admin: bool = False
    ) -> None:
        self._dataplane = dataplane
        self._timeout = timeout
        self._admin = admin

    def fast_routes(self) -> list[FastRoute]:
        """What is asked most."""
        return [FastRoute("POST", INFER, self.infer, failed)]

    def routes(self) -> list[Route]:
        """The rest."""
        model = "/v2/models/{model:model}"
        get, post = ["GET"], ["POST"]
        return [
            Route("/v2", self.server_metadata, methods=get),
            Route("/v2/health/live", self.live, methods=get),
            Route("/v2/health/ready", self.ready, methods=get),
            Route("/v2/models/stats", self.statistics, methods=get),
            *(
                Route(base + path, endpoint, methods=get)
                for base in (model, model + "/versions/{version}")
                for path, endpoint in [
                    ("", self.model_metadata),
                    ("/ready", self.model_ready),
                    ("/config", self.model_config),
                    ("/stats", self.statistics),
                ]
            ),
            Route("/v2/repository/index", self.index, methods=post),
            Route("/v2/repository/models/{model:model}/load", self.load, methods=post),
            Route("/v2/repository/models/{model:model}/unload", self.unload, methods=post),
        ]

    async def live(self, request: StarletteRequest) -> Response:
        """GET /v2/health/live: 200 while the process answers."""
        return json_response(dumps({"live": True}))

    async def ready(self, request: StarletteRequest) -> Response:
        """GET /v2/health/ready: 200 while requests are welcome, else 503."""
        ready = self._dataplane.ready()
        return json_response(dumps({"ready": ready}), 200 if ready else 503)

    async def model_ready(self, request: StarletteRequest) -> Response:
        """GET .../ready: 200 while the model answers, 503 while it does not, 404 without it."""
        target = _target(request)
        ready = self._dataplane.ready(target)
        if not ready:
            self._dataplane.status(target)  # a model that does not exist is 404
        body = dumps({"name": target.name, "ready": ready})
        return json_response(body, 200 if ready else 503)

    async def server_metadata(self, request: StarletteRequest) -> Response:
        """GET /v2: the server's name, version and extensions."""
        return json_response(dumps(v2.server_metadata()))

    async def model_metadata(self, request: StarletteRequest) -> Response:
        """GET /v2/models/{m}[/versions/{v}]: inputs and outputs."""
        return json_response(dumps(v2.model_metadata(self._dataplane, _target(request))))

    async def model_config(self, request: StarletteRequest) -> Response:
        """GET .../config: Triton's configuration of the model."""
        return json_response(dumps(v2.model_config(self._dataplane, _target(request))))

    async def statistics(self, request: StarletteRequest) -> Response:
        """GET /v2/models[/{m}[/versions/{v}]]/stats: counts and durations."""
        target = _target(request) if "model" in request.path_params else None
        return json_response(dumps(v2.statistics(self._dataplane, target)))

    async def index(self, request: StarletteRequest) -> Response:
        """POST /v2/repository/index: every model and version, with its state."""
        ready = (await _document(request)).get("ready", False)
        if not isinstance(ready, bool):
            raise InvalidInputError("'ready' must be true or false")
        return json_response(dumps(v2.repository_index(self._dataplane, ready)))

    async def load(self, request: StarletteRequest) -> Response:
        """POST /v2/repository/models/{m}/load: loads it, again or for the first time."""
        check_admin(self._admin)
        v2.check_load((await _document(request)).get("parameters"))
        await self._dataplane.load(request.path_params["model"])
        return json_response(b"{}")

    async def unload(self, request: StarletteRequest) -> Response:
        """POST /v2/repository/models/{m}/unload: serves it no more."""
        check_admin(self._admin)
        await self._dataplane.unload(request.path_params["model"])
        return json_response(b"{}")

    async def infer(self, request: Request) -> Reply:
        """POST .../infer: tensors in, tensors out."""
        target = v2.target_of(request.path["model"], request.path["version"])
        manifest = self._dataplane.metadata(target).manifest  # before the body, which may be long
        deadline = deadline_of(request, self._timeout)
        body = await request.body()
        length = header_length(request.header(HEADER_LENGTH), len(body))
        if not length and body:
            parsed = raw_infer_request(body, manifest.input)
        elif length < IN_THREAD:
            parsed = parse_infer_request(body, length)
        else:
            parsed = await asyncio.to_thread(parse_infer_request, body, length)
        if parsed.timeout is not None:
            asked = request.arrived + parsed.timeout
            deadline = asked if deadline is None else min(asked, deadline)
        with request.watched():
            prediction, outputs = await v2.infer(self._dataplane, target, parsed, deadline)
        reply = format_infer_response(prediction, outputs, parsed.id)
        reply.headers.append(server_timing(prediction.timing))
        return reply


async def _document(request: StarletteRequest) -> dict[str, Any]:
    body = await request.body()
    document = loads(body) if body else {}
    if not isinstance(document, dict):
        raise InvalidInputError("the body must be an object")
    return document


def _target(request: StarletteRequest) -> Target:
    return v2.target_of(request.path_params["model"], request.path_params.get("version"))
