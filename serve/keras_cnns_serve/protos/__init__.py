"""Messages of the gRPC protocols, in a descriptor pool of our own.

TensorFlow and Triton's client register types of the same names in the default pool; in the same
process they do not meet. `descriptors.binpb` is what protoc makes of the .proto files here
(`make protos`), so that nobody needs protoc to install or to run.
"""

from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

DESCRIPTORS = Path(__file__).with_name("descriptors.binpb")


class Package:
    """The messages and enumerations of one proto package, by attribute: `inference.DataType`."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        """Return the class of a message, or the numbers of an enumeration by their names."""
        full_name = f"{self._name}.{name}"
        try:
            value: Any = GetMessageClass(pool().FindMessageTypeByName(full_name))
        except KeyError:
            try:
                enumeration = pool().FindEnumTypeByName(full_name)
            except KeyError:
                raise AttributeError(f"the protos have no {full_name}") from None
            value = {entry.name: entry.number for entry in enumeration.values}
        setattr(self, name, value)  # the next time it is found without this method
        return value

    def service(self, name: str) -> ServiceDescriptor:
        """Return the descriptor of a service: its full name, its methods and their messages."""
        return pool().FindServiceByName(f"{self._name}.{name}")


tensorflow = Package("tensorflow")
tensorflow_serving = Package("tensorflow.serving")
inference = Package("inference")
health = Package("grpc.health.v1")


@cache
def pool() -> DescriptorPool:
    """All of the descriptors."""
    files = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes())
    pool = DescriptorPool()
    for file in files.file:  # those that are imported stand before those that import them
        pool.Add(file)
    return pool
