"""The OpenAPI document of all HTTP endpoints, from one table."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from .openapi_schemas import FRACTION, SCHEMAS, STRING, object_of, reference

_JSON, _BINARY, _TEXT = "application/json", "application/octet-stream", "text/plain"
_HTML = "text/html"
_FORM = "multipart/form-data"
_IMAGES = ("image/jpeg", "image/png", "image/webp", "image/bmp", "image/gif")
_PARAMETERS: dict[str, dict[str, Any]] = {
    "model": {"in": "path", "schema": STRING | {"pattern": "^[^/:]+$"}},
    "version": {"in": "path", "schema": STRING | {"pattern": "^[0-9]{1,19}$"}},
    "label": {"in": "path", "schema": STRING | {"pattern": "^[^/:]+$"}},
    "top_k": {"in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 999999999}},
    "cam": {
        "in": "query",
        "schema": {"enum": [0, 1]},
        "description": "1: return a PNG of the image with its class activation map over it",
    },
    "opacity": {
        "in": "query",
        "schema": FRACTION,
        "description": "opacity of the class activation map over the image; 0.5 by default",
    },
    "min_probability": {
        "in": "query",
        "schema": FRACTION,
        "description": "threshold; an image whose highest probability is below it is unknown",
    },
    "min_accuracy": {
        "in": "query",
        "schema": FRACTION,
        "description": "an accuracy for which model.json has a threshold, such as 0.98",
    },
    "X-Request-Timeout": {
        "in": "header",
        "schema": {"type": "number", "minimum": 0, "maximum": 86400},
        "description": "maximum time of the request in seconds",
    },
    "Inference-Header-Content-Length": {
        "in": "header",
        "schema": {"type": "integer", "minimum": 0, "maximum": 999999999999},
        "description": "length of the JSON before the binary data, in bytes",
    },
}
_MODEL_ERRORS = (400, 404, 503)
_WORK_ERRORS = (
    400,
    404,
    408,
    413,
    415,
    429,
    503,
    504,
)  # the error codes of endpoints that read a body and run the model
# The texts that replace "{target}" in a path, by the start of the path.
_TARGETS = {
    "/v1": ("{model}", "{model}/versions/{version}", "{model}/labels/{label}"),
    "/v2": ("{model}", "{model}/versions/{version}"),
}


@dataclass(frozen=True)
class _Operation:
    """An HTTP method of a path; the media types and schemas of its request and response."""

    method: str
    path: str
    summary: str
    answer: str
    body: str = ""
    errors: tuple[int, ...] = ()
    answers: tuple[str, ...] = (_JSON,)
    bodies: tuple[str, ...] = (_JSON,)
    parameters: tuple[str, ...] = ()

    def paths(self) -> Iterator[str]:
        """Yield the path, or one path for each kind of target if it contains "{target}"."""
        for target in _TARGETS[self.path[:3]] if "{target}" in self.path else ("",):
            yield self.path.replace("{target}", target)


def _get(path: str, summary: str, answer: str, **options: Any) -> _Operation:
    if "{target}" in path:
        options["errors"] = _MODEL_ERRORS
    return _Operation("get", path, summary, answer, **options)


def _infer(path: str, summary: str, answer: str, body: str, **options: Any) -> _Operation:
    parameters = (*options.pop("parameters", ()), "X-Request-Timeout")
    return _Operation(
        "post", path, summary, answer, body, _WORK_ERRORS, parameters=parameters, **options
    )


_V1, _V2 = "/v1/models/{target}", "/v2/models/{target}"
_OPERATIONS = (
    _get("/", "The models and their paths; for browsers, a page", "Home", answers=(_JSON, _HTML)),
    _get("/healthz", "200 while the process runs", "Health"),
    _get("/readyz", "200 while new requests are accepted", "Health", errors=(503,)),
    _get("/openapi.json", "This document", "Object"),
    _get("/metrics", "Metrics for Prometheus", "", answers=(_TEXT,)),
    _get("/monitoring/prometheus/metrics", "Metrics for Prometheus", "", answers=(_TEXT,)),
    _get("/v1/models", "The served models", "Models"),
    _get(_V1, "The states of the versions", "Status"),
    _get(f"{_V1}/metadata", "The signatures", "Metadata"),
    _infer(
        f"{_V1}:predict",
        "The outputs for pixels or encoded images",
        "PredictResponse",
        "PredictRequest",
    ),
    _infer(
        f"{_V1}:classify", "All labels with their scores", "ClassifyResponse", "ExamplesRequest"
    ),
    _infer(f"{_V1}:regress", "One number for each image", "RegressResponse", "ExamplesRequest"),
    _infer(
        f"{_V1}:classify-image",
        "Labels with probabilities for an image in the body, or for the images in a form",
        "Labels",
        "Image",
        answers=(_JSON, "image/png"),
        bodies=(*_IMAGES, _FORM),
        parameters=("top_k", "cam", "opacity", "min_probability", "min_accuracy"),
    ),
    _get("/v2", "The server and its extensions", "Server"),
    _get("/v2/health/live", "200 while the process runs", "Live"),
    _get("/v2/health/ready", "200 while new requests are accepted", "Ready", errors=(503,)),
    _get("/v2/models/stats", "The counts and durations of all models", "Statistics"),
    _get(_V2, "Inputs and outputs", "Model"),
    _get(f"{_V2}/ready", "Whether the model is ready", "Ready"),
    _get(f"{_V2}/config", "Triton's configuration", "Config"),
    _get(f"{_V2}/stats", "The counts and durations of the model", "Statistics"),
    _infer(
        f"{_V2}/infer",
        "The outputs for tensors of pixels or encoded images",
        "InferResponse",
        "InferRequest",
        answers=(_JSON, _BINARY),
        bodies=(_JSON, _BINARY),
        parameters=("Inference-Header-Content-Length",),
    ),
    _Operation(
        "post",
        "/v2/repository/index",
        "All models and versions, with their states",
        "Index",
        "IndexRequest",
        (400, 413),
    ),
    *(
        _Operation(
            "post",
            f"/v2/repository/models/{{model}}/{verb}",
            f"{verb.capitalize()} a model, if the server runs with --admin",
            "Object",
            "Object",
            (403, 404, 503),
        )
        for verb in ("load", "unload")
    ),
)


def openapi(models: Sequence[str]) -> dict[str, Any]:
    """Return the document.

    Args:
        models: the permitted values of the parameter `model`; if empty, any name is permitted.
    """
    parameters = {name: {"name": name} | entry for name, entry in _PARAMETERS.items()}
    if models:
        parameters["model"] = parameters["model"] | {"schema": {"enum": list(models)}}
    paths: dict[str, dict[str, Any]] = {}
    for operation in _OPERATIONS:
        for path in operation.paths():
            paths.setdefault(path, {})[operation.method] = _describe(operation, path, parameters)
    return {
        "openapi": "3.1.0",
        "info": {"title": "keras-cnns-serve", "version": version("keras-cnns-serve")},
        "paths": paths,
        "components": {"schemas": SCHEMAS},
    }


def _describe(
    operation: _Operation, path: str, parameters: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    in_path = [name for name in ("model", "version", "label") if f"{{{name}}}" in path]
    schema = reference(operation.answer) if operation.answer else STRING
    contents = {
        media: {"schema": schema if media in (_JSON, _TEXT) else {}} for media in operation.answers
    }
    responses: dict[str, Any] = {"200": {"description": "an answer", "content": contents}}
    for code in sorted(operation.errors):
        not_ready = code == 503 and operation.answer in ("Health", "Ready")
        error = reference("Object" if not_ready else "Error")
        responses[str(code)] = {"description": "an error", "content": {_JSON: {"schema": error}}}
    described: dict[str, Any] = {
        "summary": operation.summary,
        "parameters": [parameters[name] | {"required": True} for name in in_path]
        + [parameters[name] for name in operation.parameters],
        "responses": responses,
    }
    if operation.body:
        described["requestBody"] = {
            "required": operation.body not in ("Object", "IndexRequest"),
            "content": {media: {"schema": _body(operation, media)} for media in operation.bodies},
        }
    return described


def _body(operation: _Operation, media: str) -> dict[str, Any]:
    if media == _JSON:
        return reference(operation.body)
    if media == _FORM:
        return object_of("image", image={"type": "string", "contentMediaType": _BINARY})
    return {"type": "string", "contentMediaType": media}
