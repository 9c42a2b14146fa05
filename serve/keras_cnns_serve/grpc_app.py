"""The gRPC server with every protocol's services on one port."""

from collections.abc import Callable

from .dataplane import Dataplane
from .grpc_health import health_service
from .grpc_server import GrpcServer
from .grpc_serving import ServingServices
from .grpc_v2 import InferenceService


def create_grpc(
    dataplane: Dataplane,
    host: str,
    port: int,
    *,
    max_message_bytes: int,
    timeout: float | None = None,
    grace: float = 0,
    admin: bool = False,
    finished: Callable[[str, str, str, float], None] | None = None,
) -> GrpcServer:
    """The gRPC server; it serves while its context is entered.

    Args:
        dataplane: what answers.
        host: address to listen on.
        port: 0 picks a free one.
        max_message_bytes: the longest message, and the largest tensor that one may claim.
        timeout: seconds that a call may take, if its own deadline is not sooner.
        grace: seconds for what is in flight at the end.
        admin: whether clients may load, unload and configure models.
        finished: called after every call, as `GrpcServer` says.
    """
    services = [
        InferenceService(dataplane, admin=admin).service(),
        *ServingServices(dataplane, max_message_bytes, admin=admin).services(),
    ]
    names = [service.descriptor.full_name for service in services]
    return GrpcServer(
        [*services, health_service(dataplane, names)],
        host,
        port,
        max_message_bytes=max_message_bytes,
        timeout=timeout,
        grace=grace,
        finished=finished,
    )
