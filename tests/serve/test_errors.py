import ast
from pathlib import Path

import pytest

import keras_cnns_serve
from keras_cnns_serve import errors
from keras_cnns_serve.http_errors import STATUS_CODES

SOURCES = {
    path.stem: path.read_text() for path in Path(keras_cnns_serve.__file__).parent.glob("*.py")
}
KINDS = [  # ServeError itself is the first
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.ServeError)
]


@pytest.mark.parametrize("kind", KINDS[1:])
def test_every_error_is_raised_somewhere(kind: type[errors.ServeError]) -> None:
    assert any(
        f"{kind.__name__}(" in source for name, source in SOURCES.items() if name != "errors"
    )


@pytest.mark.parametrize("kind", STATUS_CODES)
def test_what_has_a_code_of_http_has_one_of_grpc(kind: type[errors.ServeError]) -> None:
    assert errors.code_name(kind("x")) != "INTERNAL"


@pytest.mark.parametrize(
    ("protocol", "others"),
    [
        ("grpc_server", {"http_errors", "asgi", "rest", "rest_v2", "v2"}),
        ("grpc_serving", {"http_errors", "rest", "rest_v2", "v2", "v2_json"}),
        ("grpc_v2", {"http_errors", "rest", "rest_v2", "json_tensor", "v2_json"}),
        ("rest", {"v2", "v2_json", "rest_v2"}),
    ],
)
def test_protocols_know_nothing_of_each_other(protocol: str, others: set[str]) -> None:
    imported = {
        name
        for node in ast.walk(ast.parse(SOURCES[protocol]))
        if isinstance(node, ast.ImportFrom) and node.level
        for name in ([node.module] if node.module else [alias.name for alias in node.names])
    }
    assert imported
    assert not imported & others
