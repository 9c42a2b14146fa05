"""gRPC's health checking: of the server, and of each model by its name.

https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any

from .dataplane import Dataplane, Target
from .errors import ModelNotFoundError, ServeError
from .grpc_server import Service
from .protos import health

WATCH_SECONDS = 0.25  # between two looks


def health_service(dataplane: Dataplane, services: Collection[str]) -> Service:
    """The service Health.

    Args:
        dataplane: what is healthy or not.
        services: the full names of the services beside it, which are as healthy as the server.
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
            told = None
            # A stream that stays open would hold the server back from its end.
            while not (dataplane.draining and told == not_serving):
                found = status(request.service)
                if found != told:
                    told = found
                    yield health.HealthCheckResponse(status=found)
                await asyncio.sleep(WATCH_SECONDS)

    return Service(health.service("Health"), {"Check": check}, {"Watch": watch})
