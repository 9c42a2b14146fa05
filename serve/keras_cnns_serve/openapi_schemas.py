"""The schemas of the OpenAPI document: what bodies and answers look like."""

from typing import Any

from .v2_tensor import DTYPES


def object_of(required: str = "", more: bool = True, **properties: Any) -> dict[str, Any]:
    """An object; `required` has names between spaces, and `more` allows others."""
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required.split()
    if not more:
        schema["additionalProperties"] = False
    return schema


def list_of(items: dict[str, Any], **limits: int) -> dict[str, Any]:
    """A list, with limits such as minItems."""
    return {"type": "array", "items": items} | limits


def reference(name: str) -> dict[str, Any]:
    """A schema of SCHEMAS by its name."""
    return {"$ref": f"#/components/schemas/{name}"}


STRING = {"type": "string"}
WHOLE = {"type": "integer", "minimum": 0}
COUNT = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
YES = {"type": "boolean"}
VALUES: dict[str, Any] = {"type": ["array", "object"]}
DURATION = object_of("count ns", count=WHOLE, ns=WHOLE)
SHAPE = list_of({"type": "integer", "minimum": -1})
EXAMPLES = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["image/encoded"],
        "properties": {"image/encoded": reference("Bytes")},
    },
}
TENSOR = object_of("name datatype shape", name=STRING, datatype=STRING, shape=SHAPE)
SCHEMAS: dict[str, dict[str, Any]] = {
    "Error": object_of("error", error=STRING),
    "Any": {},
    "Object": object_of(),
    "Bytes": object_of("b64", more=False, b64=STRING | {"description": "base64"}),
    "Home": object_of("server models", server=STRING, models=list_of(object_of())),
    "Health": object_of("status", status=STRING),
    "Models": object_of("models", models=list_of(object_of("name versions", name=STRING))),
    "Status": object_of(
        "model_version_status",
        model_version_status=list_of(
            object_of(
                "version state status",
                version=STRING,
                state={"enum": ["START", "LOADING", "AVAILABLE", "UNLOADING", "END"]},
                status=object_of(
                    "error_code error_message", error_code=STRING, error_message=STRING
                ),
            )
        ),
    ),
    "Metadata": object_of(
        "model_spec metadata", model_spec=object_of("name"), metadata=object_of()
    ),
    "PredictRequest": object_of(
        signature_name=STRING,
        instances=list_of({}, minItems=1) | {"description": "rows: an image each"},
        inputs={"description": "columns: the images, or an object of tensors by name"},
    )
    | {"oneOf": [{"required": ["instances"]}, {"required": ["inputs"]}]},
    "PredictResponse": object_of(predictions=VALUES, outputs=VALUES),
    "ExamplesRequest": object_of(
        "examples", signature_name=STRING, context=object_of(), examples=EXAMPLES
    ),
    "ClassifyResponse": object_of("results", results=list_of(list_of(list_of({})))),
    "RegressResponse": object_of("results", results=list_of({"type": "number"})),
    "Labels": object_of(
        "predictions",
        predictions=list_of(
            object_of(
                "labels",
                labels=list_of(
                    object_of(
                        "label probability", label=STRING, probability={"type": ["number", "null"]}
                    )
                ),
            )
        ),
    ),
    "Live": object_of("live", live=YES),
    "Ready": object_of("ready", ready=YES, name=STRING),
    "Server": object_of(
        "name version extensions", name=STRING, version=STRING, extensions=list_of(STRING)
    ),
    "Model": object_of(
        "name versions platform inputs outputs",
        name=STRING,
        versions=list_of(STRING),
        platform=STRING,
        inputs=list_of(TENSOR),
        outputs=list_of(TENSOR),
    ),
    "Config": object_of("name platform max_batch_size input output", max_batch_size=WHOLE),
    "Statistics": object_of(
        "model_stats",
        model_stats=list_of(
            object_of(
                "name version inference_stats",
                inference_stats=object_of("success fail queue", success=DURATION, fail=DURATION),
            )
        ),
    ),
    "IndexRequest": object_of(ready=YES),
    "Index": list_of(
        object_of("name version state reason", name=STRING, state=STRING, reason=STRING)
    ),
    "InferRequest": object_of(
        "inputs",
        id=STRING,
        parameters=object_of(
            timeout=COUNT | {"description": "microseconds"},
            priority=COUNT | {"description": "from 1, the first; 0: none"},
            binary_data_output=YES,
        ),
        inputs=list_of(
            object_of(
                "name datatype shape",
                name=STRING,
                datatype={"enum": list(DTYPES)},
                shape=list_of(WHOLE, maxItems=8),
                data=list_of({}),
                parameters=object_of(
                    binary_data_size=WHOLE, content_type={"enum": ["base64", "raw"]}
                ),
            ),
            minItems=1,
        ),
        outputs=list_of(
            object_of(
                "name",
                name=STRING,
                parameters=object_of(binary_data=YES, classification=COUNT),
            )
        ),
    ),
    "InferResponse": object_of(
        "model_name model_version outputs",
        model_name=STRING,
        model_version=STRING,
        outputs=list_of(
            object_of("name datatype shape", name=STRING, datatype=STRING, shape=SHAPE)
        ),
    ),
}
