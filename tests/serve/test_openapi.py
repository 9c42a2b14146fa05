"""The OpenAPI document, and schemathesis asking the server what the document promises."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from keras_cnns_serve.app import create_app
from keras_cnns_serve.dataplane import Dataplane
from keras_cnns_serve.image_rest import ImageRest
from keras_cnns_serve.openapi import openapi
from keras_cnns_serve.rest import Rest
from keras_cnns_serve.rest_v2 import RestV2
from tests.serve.conftest import Client

CHECKS: list[CheckFunction] = [
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
]


@pytest.fixture
def api(dataplane: Dataplane) -> Any:
    app = create_app(dataplane, max_body_bytes=100_000)
    return schemathesis.openapi.from_asgi("/openapi.json", app)


schema = schemathesis.pytest.from_fixture("api")


@schema.parametrize()
@settings(
    max_examples=8,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def test_the_server_keeps_its_promises(case: Any) -> None:
    case.call_and_validate(checks=CHECKS)


def paths() -> Iterator[tuple[str, str]]:
    for path, methods in openapi([])["paths"].items():
        for method in methods:
            yield method.upper(), path


def test_every_route_is_described(dataplane: Dataplane) -> None:
    described = set(paths())
    rest, v2, images = Rest(dataplane), RestV2(dataplane), ImageRest(dataplane)
    for route in (*rest.routes(), *v2.routes()):
        path = re.sub(r"{(\w+)(:\w+)?}", r"{\1}", route.path)
        for method in (route.methods or set()) - {"HEAD"}:
            assert (method, path) in described
    for fast in (*rest.fast_routes(), *v2.fast_routes(), *images.fast_routes()):
        found = [path for method, path in described if fast.pattern.fullmatch(path)]
        assert len(found) >= 2, fast.pattern.pattern


@pytest.mark.parametrize(("method", "path"), list(paths()))
def test_everything_described_is_served(client: Client, method: str, path: str) -> None:
    response = client.request(method, path.format(model="none", version="1", label="x"))
    assert response.status_code != 405
    assert "Malformed request" not in response.text


def test_the_models_are_named(client: Client) -> None:
    document = client.get("/openapi.json").json()
    (parameter,) = document["paths"]["/v2/models/{model}"]["get"]["parameters"]
    assert parameter["schema"] == {"enum": ["fragile", "grey", "nan", "two"]}
