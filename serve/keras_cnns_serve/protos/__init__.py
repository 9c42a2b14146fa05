"""The messages of the gRPC protocols, in a separate descriptor pool.

TensorFlow and Triton's client register types of the same names in the default pool; a separate pool
avoids conflicts in one process. protoc writes `descriptors.binpb` from the .proto files here
(`make protos`), so that installing and running need no protoc.
"""

from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

DESCRIPTORS = Path(__file__).with_name("descriptors.binpb")


class _Package:
    """A proto package, whose attributes are its messages and enumerations: `inference.DataType`."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        """Return the class of a message, or name -> number of an enumeration."""
        full_name = f"{self._name}.{name}"
        try:
            value: Any = GetMessageClass(pool().FindMessageTypeByName(full_name))
        except KeyError:
            try:
                enumeration = pool().FindEnumTypeByName(full_name)
            except KeyError:
                raise AttributeError(f"the protos have no {full_name}") from None
            value = {entry.name: entry.number for entry in enumeration.values}
        setattr(self, name, value)  # later accesses do not call this method
        return value

    def service(self, name: str) -> ServiceDescriptor:
        """Return the descriptor of a service: its full name, its methods, and their messages."""
        return pool().FindServiceByName(f"{self._name}.{name}")


tensorflow = _Package("tensorflow")
tensorflow_serving = _Package("tensorflow.serving")
inference = _Package("inference")
health = _Package("grpc.health.v1")


@cache
def pool() -> DescriptorPool:
    """Return the pool with all descriptors."""
    files = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes())
    pool = DescriptorPool()
    for file in files.file:  # imported files precede the files that import them
        pool.Add(file)
    return pool
