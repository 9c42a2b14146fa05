"""gRPC's health service, which reports on the server and on each model.

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

_POLL_SECONDS = 0.25  # interval of polls for changes


def health_service(dataplane: Dataplane, services: Collection[str]) -> Service:
    """Return the service Health.

    Args:
        dataplane: the data plane with the models.
        services: full names of the other services; each has the same health as the server.
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
            # When the server stops, streams end with NOT_SERVING, because open streams would delay
            # the stop.
            while not (dataplane.draining and sent == not_serving):
                sent = await watches.next_status(request.service, sent)
                yield health.HealthCheckResponse(status=sent)

    return Service(health.service("Health"), {"Check": check}, {"Watch": watch})


class _Watches:
    """The calls that wait for a status to change. One task polls the statuses for all calls.

    Args:
        status: a function that takes the name of a service or model, and returns its status.
    """

    def __init__(self, status: Callable[[str], int]) -> None:
        self._status = status
        # For each name: the futures of the waiting calls, and the status that each call knows.
        self._waiting: dict[str, dict[asyncio.Future[int], int]] = {}
        self._polling: asyncio.Task[None] | None = None

    async def next_status(self, name: str, last: int | None) -> int:
        """Wait until the status of a service or model is not `last`, and return the new status."""
        current = self._status(name)
        if last is None or current != last:
            return current
        change: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(name, {})[change] = last
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll())
        try:
            return await change
        finally:
            waiting = self._waiting[name]
            del waiting[change]
            if not waiting:
                del self._waiting[name]

    async def _poll(self) -> None:
        while self._waiting:
            await asyncio.sleep(_POLL_SECONDS)
            for name, waiting in self._waiting.items():
                current = self._status(name)
                for change, last in waiting.items():
                    if current != last and not change.done():
                        change.set_result(current)
