"""The application: every protocol's paths on one port."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import quote

import orjson
from starlette.applications import Starlette
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Scope

from .asgi import App, FastRoute
from .dataplane import Dataplane
from .http_errors import HANDLERS, json_response
from .image_rest import ImageRest
from .json_tensor import dumps
from .rest import Rest
from .rest_v2 import RestV2

if TYPE_CHECKING:
    from .prometheus import Prometheus

MAX_BODY_BYTES = 32 * 2**20
PROMETHEUS = {"content-type": "text/plain; version=0.0.4; charset=utf-8"}


class ModelNameConvertor(StringConvertor):
    """A model's name in a path ends at a slash, or at the colon before a verb."""

    regex = "[^/:]+"


register_url_convertor("model", ModelNameConvertor())


class Home:
    """What belongs to no protocol.

    Args:
        dataplane: what answers.
        answers: counted by HTTP status.
    """

    def __init__(self, dataplane: Dataplane, answers: Counter[int]) -> None:
        self._dataplane = dataplane
        self._answers = answers

    def routes(self) -> list[Route]:
        """Its paths."""
        return [
            Route("/metrics", self.metrics, methods=["GET"]),
            Route("/monitoring/prometheus/metrics", self.serving_metrics, methods=["GET"]),
            Route("/", self.home, methods=["GET"]),
            Route("/healthz", self.health, methods=["GET"]),
            Route("/readyz", self.ready, methods=["GET"]),
            Route("/openapi.json", self.openapi, methods=["GET"]),
        ]

    async def home(self, request: Request) -> Response:
        """GET /: what is served, with a command to try for each model."""
        base = str(request.base_url) + "v1/models/"
        models = [
            {
                "name": model.name,
                "classify": f"curl --data-binary @image.png {base}{path}:classify-image",
                "status": base + path,
                "metadata": f"{base}{path}/metadata",
            }
            for model in self._dataplane.models()
            for path in [quote(model.name)]
        ]
        return json_response(
            orjson.dumps(
                {"server": "keras-cnns-serve", "models": models},
                option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE,
            )
        )

    async def health(self, request: Request) -> Response:
        """GET /healthz: 200 while the process answers."""
        return json_response(dumps({"status": "ok"}))

    async def ready(self, request: Request) -> Response:
        """GET /readyz: 200 while requests are welcome, 503 before and after."""
        ready = self._dataplane.ready()
        body = {"status": "ready" if ready else "not ready"}
        return json_response(dumps(body), 200 if ready else 503)

    async def metrics(self, request: Request) -> Response:
        """GET /metrics: for Prometheus."""
        return Response(self._prometheus.own(), headers=PROMETHEUS)

    async def serving_metrics(self, request: Request) -> Response:
        """GET /monitoring/prometheus/metrics: the same by TensorFlow Serving's names."""
        return Response(self._prometheus.serving(), headers=PROMETHEUS)

    async def openapi(self, request: Request) -> Response:
        """GET /openapi.json: every path that is served, with what it takes and gives."""
        from .openapi import openapi

        models = [model.name for model in self._dataplane.models()]
        return json_response(dumps(openapi(models)))

    @cached_property
    def _prometheus(self) -> "Prometheus":
        from .prometheus import Prometheus  # who never asks need not load its library

        return Prometheus(self._dataplane, self._answers)


def create_app(
    dataplane: Dataplane,
    *,
    max_body_bytes: int = MAX_BODY_BYTES,
    timeout: float | None = None,
    admin: bool = False,
    fast_routes: Sequence[FastRoute] = (),
    routes: Sequence[BaseRoute] = (),
    finished: Callable[[Scope, int, float], None] | None = None,
) -> App:
    """The ASGI application.

    Args:
        dataplane: what answers.
        max_body_bytes: a longer body gets 413, at the latest when it has sent that much.
        timeout: seconds that a request may take, if it does not say.
        admin: whether clients may load and unload models.
        fast_routes: of other protocols, the short way.
        routes: of other protocols, through Starlette.
        finished: called after every answer, with the scope, the status and the seconds it took.
    """
    answers: Counter[int] = Counter()
    rest, images, home = (
        Rest(dataplane, timeout),
        ImageRest(dataplane, timeout),
        Home(dataplane, answers),
    )
    rest_v2 = RestV2(dataplane, timeout, admin=admin)
    starlette = Starlette(
        routes=[*home.routes(), *rest.routes(), *rest_v2.routes(), *routes],
        exception_handlers=HANDLERS,
    )
    fast = [*images.fast_routes(), *rest.fast_routes(), *rest_v2.fast_routes(), *fast_routes]
    return App(fast, starlette, max_body_bytes, answers, finished)
