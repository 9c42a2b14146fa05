"""gRPC's server reflection, which lets tools such as grpcurl list services and messages."""

from collections.abc import Sequence

from grpc_reflection.v1alpha import reflection, reflection_pb2

from .calls import Service


def reflection_service(services: Sequence[Service]) -> Service:
    """Return the service that describes other services, whose descriptors must be in one pool."""
    names = [service.descriptor.full_name for service in services]
    pool = services[0].descriptor.file.pool if services else None
    servicer = reflection.aio.ReflectionServicer(names, pool)
    descriptor = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
    # The method does not use its second argument, which is normally grpcio's context.
    methods = {"ServerReflectionInfo": servicer.ServerReflectionInfo}
    return Service(descriptor, {}, methods)
