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

_WATCH_SECONDS = 0.25  # between two looks for a change


def health_service(dataplane: Dataplane, services: Collection[str]) -> Service:
    """Return the service Health.

    Args:
        dataplane: The models, whose health it reports.
        services: Full names of the other services, whose health is that of the server.
    """
    serving = int(health.HealthCheckResponse.SERVING)
    not_serving = int(health.HealthCheckResponse.NOT_SERVING)
    unknown = int(health.HealthCheckResponse.SERVICE_UNKNOWN)

    def status(name: str) -> int:
        target = None if name in ("", *services) else Target(name)
        if dataplane.ready(target):
            return serving
        if target is not None and not dataplane.draining:
            try:
                dataplane.status(target)
            except ServeError:
                return unknown
        return not_serving

    async def check(request: Any, deadline: float | None) -> Any:
        found = status(request.service)
        if found == unknown:
            raise ModelNotFoundError(f"there is no service or model {request.service!r:.80}")
        return health.HealthCheckResponse(status=found)

    watches = _Watches(status)

    async def watch(
        requests: AsyncIterator[Any], deadline: Callable[[], float | None]
    ) -> AsyncIterator[Any]:
        async for request in requests:
            sent = None
            # A stream that stayed open would delay the end of the server.
            while not (dataplane.draining and sent == not_serving):
                sent = await watches.other(request.service, sent)
                yield health.HealthCheckResponse(status=sent)

    return Service(health.service("Health"), {"Check": check}, {"Watch": watch})


class _Watches:
    """Calls that wait for a change of something's status; one task looks at it for all of them.

    Args:
        status: Returns the status of what has a name.
    """

    def __init__(self, status: Callable[[str], int]) -> None:
        self._status = status
        self._waiting: dict[str, dict[asyncio.Future[int], int]] = {}  # by name; what each has seen
        self._looking: asyncio.Task[None] | None = None

    async def other(self, name: str, seen: int | None) -> int:
        """Return the status of a name once it is another than the one that was seen."""
        found = self._status(name)
        if seen is None or found != seen:
            return found
        change: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(name, {})[change] = seen
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            return await change
        finally:
            waiting = self._waiting[name]
            del waiting[change]
            if not waiting:
                del self._waiting[name]

    async def _look(self) -> None:
        while self._waiting:
            await asyncio.sleep(_WATCH_SECONDS)
            for name, waiting in self._waiting.items():
                found = self._status(name)
                for change, seen in waiting.items():
                    if found != seen and not change.done():
                        change.set_result(found)
