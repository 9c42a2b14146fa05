"""gRPC's server reflection, with which tools such as grpcurl list services and their messages."""

from collections.abc import Sequence

from grpc_reflection.v1alpha import reflection, reflection_pb2

from .calls import Service


def reflection_service(services: Sequence[Service]) -> Service:
    """Return the service that describes others; their descriptors are of one pool."""
    names = [service.descriptor.full_name for service in services]
    pool = services[0].descriptor.file.pool if services else None
    servicer = reflection.aio.ReflectionServicer(names, pool)
    descriptor = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
    # It does not use its second argument, which is grpcio's context there.
    methods = {"ServerReflectionInfo": servicer.ServerReflectionInfo}
    return Service(descriptor, {}, methods)
