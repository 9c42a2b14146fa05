"""The OpenAPI document of everything that is served over HTTP, made from one table."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from .openapi_schemas import SCHEMAS, STRING, object_of, reference

JSON, BINARY, TEXT = "application/json", "application/octet-stream", "text/plain"
IMAGES = ("image/jpeg", "image/png", "image/webp", "image/bmp", "image/gif")
V1, V1_AT = "/v1/models/{model}", ("", "/versions/{version}", "/labels/{label}")
V2, V2_AT = "/v2/models/{model}", ("", "/versions/{version}")


PARAMETERS: dict[str, dict[str, Any]] = {
    "model": {"in": "path", "schema": STRING | {"pattern": "^[^/:]+$"}},
    "version": {"in": "path", "schema": STRING | {"pattern": "^[0-9]{1,19}$"}},
    "label": {"in": "path", "schema": STRING | {"pattern": "^[^/:]+$"}},
    "top_k": {"in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 999999999}},
    "cam": {
        "in": "query",
        "schema": {"enum": [0, 1]},
        "description": "1: the image as a PNG, what decided its class in colour",
    },
    "X-Request-Timeout": {
        "in": "header",
        "schema": {"type": "number", "minimum": 0, "maximum": 86400},
        "description": "seconds until no answer is wanted",
    },
    "Inference-Header-Content-Length": {
        "in": "header",
        "schema": {"type": "integer", "minimum": 0, "maximum": 999999999999},
        "description": "bytes of JSON, before the binary data",
    },
}


@dataclass(frozen=True)
class _Operation:
    """A line of the document."""

    method: str
    path: str
    summary: str
    answer: str  # the schema of its 200
    takes: str = ""  # the schema of its body
    errors: tuple[int, ...] = ()
    answers: tuple[str, ...] = (JSON,)  # media types
    bodies: tuple[str, ...] = (JSON,)
    parameters: tuple[str, ...] = ()


MODEL_ERRORS = (400, 404, 503)
# What reads a body and computes.
WORK_ERRORS = (400, 404, 408, 413, 415, 429, 503, 504)
TIMEOUT = ("X-Request-Timeout",)


def _operations() -> Iterator[_Operation]:
    yield _Operation("get", "/", "What is served, with commands to try", "Home")
    yield _Operation("get", "/healthz", "200 while the process answers", "Health")
    yield _Operation("get", "/readyz", "200 while requests are welcome", "Health", errors=(503,))
    yield _Operation("get", "/openapi.json", "This document", "Object")
    for path in ("/metrics", "/monitoring/prometheus/metrics"):
        yield _Operation("get", path, "Metrics for Prometheus", "", answers=(TEXT,))
    yield _Operation("get", "/v1/models", "The models that answer", "Models")
    for at in V1_AT:
        base = V1 + at
        yield _Operation("get", base, "The state of versions", "Status", errors=MODEL_ERRORS)
        yield _Operation(
            "get", f"{base}/metadata", "The signatures", "Metadata", errors=MODEL_ERRORS
        )
        for verb, takes, answer, what in [
            ("predict", "PredictRequest", "PredictResponse", "Pixels or encoded images in"),
            ("classify", "ExamplesRequest", "ClassifyResponse", "Every label with its score"),
            ("regress", "ExamplesRequest", "RegressResponse", "One number for each image"),
        ]:
            yield _Operation(
                "post", f"{base}:{verb}", what, answer, takes, WORK_ERRORS, parameters=TIMEOUT
            )
        yield _Operation(
            "post",
            f"{base}:classify-image",
            "An image as the body, or a form of images: labels with probabilities",
            "Labels",
            "Image",
            WORK_ERRORS,
            (JSON, "image/png"),
            (*IMAGES, "multipart/form-data"),
            ("top_k", "cam", *TIMEOUT),
        )
    yield _Operation("get", "/v2", "The server and its extensions", "Server")
    yield _Operation("get", "/v2/health/live", "200 while the process answers", "Live")
    yield _Operation(
        "get", "/v2/health/ready", "200 while requests are welcome", "Ready", errors=(503,)
    )
    yield _Operation("get", "/v2/models/stats", "What all models have done", "Statistics")
    for at in V2_AT:
        for path, what, answer in [
            ("", "Inputs and outputs", "Model"),
            ("/ready", "Whether it answers", "Ready"),
            ("/config", "Triton's configuration", "Config"),
            ("/stats", "What it has done", "Statistics"),
        ]:
            yield _Operation("get", V2 + at + path, what, answer, errors=MODEL_ERRORS)
        yield _Operation(
            "post",
            f"{V2}{at}/infer",
            "Tensors in, tensors out",
            "InferResponse",
            "InferRequest",
            WORK_ERRORS,
            (JSON, BINARY),
            (JSON, BINARY),
            ("Inference-Header-Content-Length", *TIMEOUT),
        )
    yield _Operation(
        "post",
        "/v2/repository/index",
        "Every model and version, with its state",
        "Index",
        "IndexRequest",
        (400, 413),
    )
    for verb in ("load", "unload"):
        yield _Operation(
            "post",
            f"/v2/repository/models/{{model}}/{verb}",
            f"{verb.capitalize()} a model; only with --admin",
            "Object",
            "Object",
            (403, 404, 503),
        )


def openapi(models: Sequence[str]) -> dict[str, Any]:
    """The document.

    Args:
        models: the names that the parameter `model` can have now; none: any.
    """
    parameters = {name: {"name": name} | entry for name, entry in PARAMETERS.items()}
    if models:
        parameters["model"] = parameters["model"] | {"schema": {"enum": list(models)}}
    paths: dict[str, dict[str, Any]] = {}
    for operation in _operations():
        paths.setdefault(operation.path, {})[operation.method] = _describe(operation, parameters)
    return {
        "openapi": "3.1.0",
        "info": {"title": "keras-cnns-serve", "version": version("keras-cnns-serve")},
        "paths": paths,
        "components": {"schemas": SCHEMAS},
    }


def _describe(operation: _Operation, parameters: dict[str, dict[str, Any]]) -> dict[str, Any]:
    in_path = [name for name in ("model", "version", "label") if f"{{{name}}}" in operation.path]
    schema = reference(operation.answer) if operation.answer else STRING
    contents = {
        media: {"schema": schema if media in (JSON, TEXT) else {}} for media in operation.answers
    }
    error = {JSON: {"schema": reference("Error")}}
    described: dict[str, Any] = {
        "summary": operation.summary,
        "parameters": [parameters[name] | {"required": True} for name in in_path]
        + [parameters[name] for name in operation.parameters],
        "responses": {"200": {"description": "an answer", "content": contents}}
        | {
            str(code): {"description": "an error", "content": error}
            for code in sorted(operation.errors)
        },
    }
    if 503 in operation.errors and operation.answer in ("Health", "Ready"):
        described["responses"]["503"]["content"] = {JSON: {"schema": reference("Object")}}
    if operation.takes:
        described["requestBody"] = {
            "required": operation.takes not in ("Object", "IndexRequest"),
            "content": {media: {"schema": _body(operation, media)} for media in operation.bodies},
        }
    return described


def _body(operation: _Operation, media: str) -> dict[str, Any]:
    if media == JSON:
        return reference(operation.takes)
    if media == "multipart/form-data":
        return object_of("image", image={"type": "string", "contentMediaType": BINARY})
    return {"type": "string", "contentMediaType": media}
