"""The endpoints that belong to no protocol: models, health, metrics, the OpenAPI document."""

from collections import Counter
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import quote

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from keras_cnns_serve.core.dataplane import Dataplane
from keras_cnns_serve.core.json_text import dumps
from keras_cnns_serve.protocols.page import Page
from keras_cnns_serve.transport.http.errors import json_response

if TYPE_CHECKING:
    from keras_cnns_serve.observability.prometheus import Prometheus

_PROMETHEUS = {"content-type": "text/plain; version=0.0.4; charset=utf-8"}


class Home:
    """The endpoints that belong to no protocol.

    Args:
        dataplane: the data plane.
        answers: the number of HTTP responses by status.
        page: the page for browsers, or None.
    """

    def __init__(
        self, dataplane: Dataplane, answers: Counter[int], page: Page | None = None
    ) -> None:
        self._dataplane = dataplane
        self._answers = answers
        self._page = page

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/metrics", self.metrics, methods=["GET"]),
            Route("/monitoring/prometheus/metrics", self.serving_metrics, methods=["GET"]),
            Route("/", self.home, methods=["GET"]),
            Route("/healthz", self.health, methods=["GET"]),
            Route("/readyz", self.ready, methods=["GET"]),
            Route("/openapi.json", self.openapi, methods=["GET"]),
            *([] if self._page is None else self._page.routes()),
        ]

    async def home(self, request: Request) -> Response:
        """Answer GET / with the page if a browser asks, otherwise with the models and engines."""
        if self._page is not None and self._page.is_for(request.scope):
            return self._page.document(request)
        models = [
            {
                "name": model.name,
                "classify": f"{path}:classify-image",
                "status": path,
                "metadata": f"{path}/metadata",
                "engine": model.engine,
            }
            for model in self._dataplane.models()
            for path in [f"/v1/models/{quote(model.name)}"]
        ]
        response = json_response(
            orjson.dumps(
                {"server": "keras-cnns-serve", "models": models},
                option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE,
            )
        )
        if self._page is not None:
            response.headers["vary"] = "accept"
        return response

    async def health(self, request: Request) -> Response:
        """Answer GET /healthz with 200 while the process runs."""
        return json_response(dumps({"status": "ok"}))

    async def ready(self, request: Request) -> Response:
        """Answer GET /readyz with 200 while new requests are accepted, otherwise with 503."""
        ready = self._dataplane.ready()
        body = {"status": "ready" if ready else "not ready"}
        return json_response(dumps(body), 200 if ready else 503)

    async def metrics(self, request: Request) -> Response:
        """Answer GET /metrics with the metrics for Prometheus, under this server's own names."""
        return Response(self._prometheus.own(), headers=_PROMETHEUS)

    async def serving_metrics(self, request: Request) -> Response:
        """Answer GET /monitoring/prometheus/metrics with metrics named as in TensorFlow Serving."""
        return Response(self._prometheus.serving(), headers=_PROMETHEUS)

    async def openapi(self, request: Request) -> Response:
        """Answer GET /openapi.json with a description of all paths."""
        from keras_cnns_serve.protocols.openapi import openapi

        models = [model.name for model in self._dataplane.models()]
        return json_response(dumps(openapi(models)))

    @cached_property
    def _prometheus(self) -> "Prometheus":
        # Import the library only if the metrics are requested.
        from keras_cnns_serve.observability.prometheus import Prometheus

        return Prometheus(self._dataplane, self._answers)
