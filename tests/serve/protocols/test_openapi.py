"""The OpenAPI document, and schemathesis asking the server what the document promises."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from keras_cnns_serve.compose import create_app
from keras_cnns_serve.core.dataplane import Dataplane
from keras_cnns_serve.protocols.images import ImageEndpoint
from keras_cnns_serve.protocols.oip.rest import OpenInferenceRest
from keras_cnns_serve.protocols.openapi import openapi
from keras_cnns_serve.protocols.tfserving.rest import TensorFlowServingRest
from tests.serve.conftest import Client

CHECKS: list[CheckFunction] = [
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
]


def paths() -> Iterator[tuple[str, str]]:
    for path, methods in openapi([])["paths"].items():
        for method in methods:
            yield method.upper(), path


OPERATIONS = list(paths())


@pytest.fixture(scope="module")
def schema(dataplane: Dataplane) -> Any:
    app = create_app(dataplane, max_body_bytes=100_000)
    return schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [
        (method, path, mode)
        for method, path in OPERATIONS
        for mode in schemathesis.GenerationMode
        if method == "POST" or mode == schemathesis.GenerationMode.POSITIVE
    ],
)
def test_the_server_keeps_its_promises(schema: Any, method: str, path: str, mode: Any) -> None:
    @given(case=schema[path][method].as_strategy(generation_mode=mode))
    @settings(
        max_examples=6,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: Any) -> None:
        case.call_and_validate(checks=CHECKS)

    ask()


def test_every_route_is_described(dataplane: Dataplane) -> None:
    described = set(OPERATIONS)
    rest, v2 = TensorFlowServingRest(dataplane), OpenInferenceRest(dataplane)
    images = ImageEndpoint(dataplane)
    for route in (*rest.routes(), *v2.routes()):
        path = re.sub(r"{(\w+)(:\w+)?}", r"{\1}", route.path)
        for method in (route.methods or set()) - {"HEAD"}:
            assert (method, path) in described
    for fast in (*rest.fast_routes(), *v2.fast_routes(), *images.fast_routes()):
        found = [path for method, path in described if fast.pattern.fullmatch(path)]
        assert len(found) >= 2, fast.pattern.pattern


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_everything_described_is_served(client: Client, method: str, path: str) -> None:
    response = client.request(method, path.format(model="none", version="1", label="x"))
    assert response.status_code != 405
    assert "Malformed request" not in response.text


def test_the_models_are_named(client: Client) -> None:
    document = client.get("/openapi.json").json()
    (parameter,) = document["paths"]["/v2/models/{model}"]["get"]["parameters"]
    assert parameter["schema"] == {"enum": ["fragile", "grey", "nan", "two"]}
