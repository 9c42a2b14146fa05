"""Our messages are those of the real clients: names, numbers, types, methods."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc.service_pb2
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from tensorflow.core.example import example_pb2
from tensorflow.core.protobuf import error_codes_pb2, meta_graph_pb2
from tensorflow_serving.apis import model_service_pb2, prediction_service_pb2

from keras_cnns_serve import protos

THEIRS = descriptor_pool.Default()
# Our pool must not change the types that these modules register in the default pool.
MODULES = (
    example_pb2,
    meta_graph_pb2,
    error_codes_pb2,
    prediction_service_pb2,
    model_service_pb2,
    tritonclient.grpc.service_pb2,
)
FILES = descriptor_pb2.FileDescriptorSet.FromString(protos.DESCRIPTORS.read_bytes()).file
OURS = [file for file in FILES if not file.name.startswith("google/")]
RENAMED = {"tensorflow.serving.Code": "tensorflow.error.Code"}
HEALTH = "grpc.health.v1"  # no client of ours brings it


def test_the_descriptors_are_what_protoc_makes_of_the_protos(tmp_path: Path) -> None:
    folder = protos.DESCRIPTORS.parent
    made = tmp_path / "descriptors.binpb"
    arguments = ["-I", str(folder), "--include_imports", f"--descriptor_set_out={made}"]
    files = [str(path) for path in sorted(folder.glob("*.proto"))]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *arguments, *files], check=True)
    assert list(descriptor_pb2.FileDescriptorSet.FromString(made.read_bytes()).file) == list(FILES)


@pytest.mark.parametrize(
    "name", [f"{file.package}.{m.name}" for file in OURS for m in file.message_type]
)
def test_messages(name: str) -> None:
    if not name.startswith(HEALTH):
        _compare(protos.pool().FindMessageTypeByName(name), THEIRS.FindMessageTypeByName(name))


@pytest.mark.parametrize(
    "name", [f"{file.package}.{e.name}" for file in OURS for e in file.enum_type]
)
def test_enumerations(name: str) -> None:
    theirs = THEIRS.FindEnumTypeByName(RENAMED.get(name, name))
    _compare_values(protos.pool().FindEnumTypeByName(name), theirs)


@pytest.mark.parametrize(
    "name", [f"{file.package}.{s.name}" for file in OURS for s in file.service]
)
def test_services(name: str) -> None:
    if name.startswith(HEALTH):
        return
    theirs = {method.name: _signature(method) for method in THEIRS.FindServiceByName(name).methods}
    for method in protos.pool().FindServiceByName(name).methods:
        assert _signature(method) == theirs[method.name]


def test_a_name_that_does_not_exist_is_told() -> None:
    with pytest.raises(AttributeError, match=r"the protos have no inference\.NoSuchMessage"):
        protos.inference.NoSuchMessage  # noqa: B018


def _compare(ours: Descriptor, theirs: Descriptor) -> None:
    for field in ours.fields:
        assert _field(field) == _field(theirs.fields_by_name[field.name])
    for nested in ours.nested_types:
        _compare(nested, theirs.nested_types_by_name[nested.name])
    for enumeration in ours.enum_types:
        _compare_values(enumeration, theirs.enum_types_by_name[enumeration.name])


def _compare_values(ours: EnumDescriptor, theirs: EnumDescriptor) -> None:
    numbers = {value.name: value.number for value in theirs.values}
    assert {value.name: value.number for value in ours.values}.items() <= numbers.items()


def _field(field: FieldDescriptor) -> tuple[Any, ...]:
    kind = field.message_type.full_name if field.message_type else field.type
    oneof = field.containing_oneof.name if field.containing_oneof else None
    return field.number, kind, field.is_repeated, oneof


def _signature(method: Any) -> tuple[Any, ...]:
    return (
        method.input_type.full_name,
        method.output_type.full_name,
        method.client_streaming,
        method.server_streaming,
    )
