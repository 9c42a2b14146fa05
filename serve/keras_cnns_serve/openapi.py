"""The OpenAPI document of everything that is served over HTTP, made from one table."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from .v2_tensor import DTYPES

JSON, BINARY, TEXT = "application/json", "application/octet-stream", "text/plain"
IMAGES = ("image/jpeg", "image/png", "image/webp")
V1, V1_AT = "/v1/models/{model}", ("", "/versions/{version}", "/labels/{label}")
V2, V2_AT = "/v2/models/{model}", ("", "/versions/{version}")


def _object(required: str = "", more: bool = True, **properties: Any) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required.split()
    if not more:
        schema["additionalProperties"] = False
    return schema


def _list(items: dict[str, Any], **limits: int) -> dict[str, Any]:
    return {"type": "array", "items": items} | limits


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


TEXT_ = {"type": "string"}
WHOLE = {"type": "integer", "minimum": 0}
COUNT = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
YES = {"type": "boolean"}
VALUES: dict[str, Any] = {"type": ["array", "object"]}
DURATION = _object("count ns", count=WHOLE, ns=WHOLE)
SHAPE = _list({"type": "integer", "minimum": -1})
EXAMPLES = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["image/encoded"],
        "properties": {"image/encoded": _ref("Bytes")},
    },
}
TENSOR = _object("name datatype shape", name=TEXT_, datatype=TEXT_, shape=SHAPE)
SCHEMAS: dict[str, dict[str, Any]] = {
    "Error": _object("error", error=TEXT_),
    "Any": {},
    "Object": _object(),
    "Bytes": _object("b64", more=False, b64=TEXT_ | {"description": "base64"}),
    "Home": _object("server models", server=TEXT_, models=_list(_object())),
    "Health": _object("status", status=TEXT_),
    "Models": _object("models", models=_list(_object("name versions", name=TEXT_))),
    "Status": _object(
        "model_version_status",
        model_version_status=_list(
            _object(
                "version state status",
                version=TEXT_,
                state={"enum": ["START", "LOADING", "AVAILABLE", "UNLOADING", "END"]},
                status=_object("error_code error_message", error_code=TEXT_, error_message=TEXT_),
            )
        ),
    ),
    "Metadata": _object("model_spec metadata", model_spec=_object("name"), metadata=_object()),
    "PredictRequest": _object(
        signature_name=TEXT_,
        instances=_list({}, minItems=1) | {"description": "rows: an image each"},
        inputs={"description": "columns: the images, or an object of tensors by name"},
    )
    | {"oneOf": [{"required": ["instances"]}, {"required": ["inputs"]}]},
    "PredictResponse": _object(predictions=VALUES, outputs=VALUES),
    "ExamplesRequest": _object(
        "examples", signature_name=TEXT_, context=_object(), examples=EXAMPLES
    ),
    "ClassifyResponse": _object("results", results=_list(_list(_list({})))),
    "RegressResponse": _object("results", results=_list({"type": "number"})),
    "Labels": _object(
        "predictions",
        predictions=_list(
            _object(
                "labels",
                labels=_list(
                    _object(
                        "label probability", label=TEXT_, probability={"type": ["number", "null"]}
                    )
                ),
            )
        ),
    ),
    "Live": _object("live", live=YES),
    "Ready": _object("ready", ready=YES, name=TEXT_),
    "Server": _object(
        "name version extensions", name=TEXT_, version=TEXT_, extensions=_list(TEXT_)
    ),
    "Model": _object(
        "name versions platform inputs outputs",
        name=TEXT_,
        versions=_list(TEXT_),
        platform=TEXT_,
        inputs=_list(TENSOR),
        outputs=_list(TENSOR),
    ),
    "Config": _object("name platform max_batch_size input output", max_batch_size=WHOLE),
    "Statistics": _object(
        "model_stats",
        model_stats=_list(
            _object(
                "name version inference_stats",
                inference_stats=_object("success fail queue", success=DURATION, fail=DURATION),
            )
        ),
    ),
    "IndexRequest": _object(ready=YES),
    "Index": _list(_object("name version state reason", name=TEXT_, state=TEXT_, reason=TEXT_)),
    "InferRequest": _object(
        "inputs",
        id=TEXT_,
        parameters=_object(
            timeout=COUNT | {"description": "microseconds"},
            priority=COUNT | {"description": "from 1, the first; 0: none"},
            binary_data_output=YES,
        ),
        inputs=_list(
            _object(
                "name datatype shape",
                name=TEXT_,
                datatype={"enum": list(DTYPES)},
                shape=_list(WHOLE, maxItems=8),
                data=_list({}),
                parameters=_object(
                    binary_data_size=WHOLE, content_type={"enum": ["base64", "raw"]}
                ),
            ),
            minItems=1,
        ),
        outputs=_list(
            _object(
                "name",
                name=TEXT_,
                parameters=_object(binary_data=YES, classification=COUNT),
            )
        ),
    ),
    "InferResponse": _object(
        "model_name model_version outputs",
        model_name=TEXT_,
        model_version=TEXT_,
        outputs=_list(_object("name datatype shape", name=TEXT_, datatype=TEXT_, shape=SHAPE)),
    ),
}
PARAMETERS: dict[str, dict[str, Any]] = {
    "model": {"in": "path", "schema": TEXT_ | {"pattern": "^[^/:]+$"}},
    "version": {"in": "path", "schema": TEXT_ | {"pattern": "^[0-9]{1,19}$"}},
    "label": {"in": "path", "schema": TEXT_ | {"pattern": "^[^/:]+$"}},
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
WORK_ERRORS = (400, 404, 413, 415, 429, 503, 504)
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
    schema = _ref(operation.answer) if operation.answer else TEXT_
    contents = {
        media: {"schema": schema if media in (JSON, TEXT) else {}} for media in operation.answers
    }
    error = {JSON: {"schema": _ref("Error")}}
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
        described["responses"]["503"]["content"] = {JSON: {"schema": _ref("Object")}}
    if operation.takes:
        described["requestBody"] = {
            "required": operation.takes not in ("Object", "IndexRequest"),
            "content": {media: {"schema": _body(operation, media)} for media in operation.bodies},
        }
    return described


def _body(operation: _Operation, media: str) -> dict[str, Any]:
    if media == JSON:
        return _ref(operation.takes)
    if media == "multipart/form-data":
        return _object("image", image={"type": "string", "contentMediaType": BINARY})
    return {"type": "string", "contentMediaType": media}
