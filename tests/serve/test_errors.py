from pathlib import Path

import pytest

import keras_cnns_serve
from keras_cnns_serve import errors
from keras_cnns_serve.transport.http.errors import STATUS_CODES

SOURCES = {path: path.read_text() for path in Path(keras_cnns_serve.__file__).parent.rglob("*.py")}
KINDS = [  # ServeError itself is the first
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.ServeError)
]


@pytest.mark.parametrize("kind", KINDS[1:])
def test_every_error_is_raised_somewhere(kind: type[errors.ServeError]) -> None:
    assert any(
        f"{kind.__name__}(" in source
        for path, source in SOURCES.items()
        if path.name != "errors.py"
    )


@pytest.mark.parametrize("kind", STATUS_CODES)
def test_what_has_a_code_of_http_has_one_of_grpc(kind: type[errors.ServeError]) -> None:
    assert errors.code_name(kind("x")) != "INTERNAL"
