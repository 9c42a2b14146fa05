"""gRPC's health service: the health of the server, and of each model by its name.

https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any

from keras_cnns_serve.core.dataplane import Dataplane
from keras_cnns_serve.core.prediction import Target
from keras_cnns_serve.errors import ModelNotFoundError, ServeError
from keras_cnns_serve.protos import health
from keras_cnns_serve.transport.grpc.server import Service

_WATCH_SECONDS = 0.25  # between two checks for a change


def health_service(dataplane: Dataplane, services: Collection[str]) -> Service:
    """Return the service Health.

    Args:
        dataplane: the models, whose health it reports.
        services: full names of the other services, whose health is that of the server.
    """
    serving = health.HealthCheckResponse.SERVING
    not_serving = health.HealthCheckResponse.NOT_SERVING
    unknown = health.HealthCheckResponse.SERVICE_UNKNOWN

    def status(name: str) -> int:
        target = None if name in ("", *services) else Target(name)
        if dataplane.ready(target):
            return int(serving)
        if target is not None:
            try:
                dataplane.status(target)
            except ServeError:
                return int(unknown)
        return int(not_serving)

    async def check(request: Any, deadline: float | None) -> Any:
        found = status(request.service)
        if found == unknown:
            raise ModelNotFoundError(f"there is no service or model {request.service!r:.80}")
        return health.HealthCheckResponse(status=found)

    async def watch(
        requests: AsyncIterator[Any], deadline: Callable[[], float | None]
    ) -> AsyncIterator[Any]:
        async for request in requests:
            sent = None
            # A stream that stayed open would delay the end of the server.
            while not (dataplane.draining and sent == not_serving):
                found = status(request.service)
                if found != sent:
                    sent = found
                    yield health.HealthCheckResponse(status=found)
                await asyncio.sleep(_WATCH_SECONDS)

    return Service(health.service("Health"), {"Check": check}, {"Watch": watch})
