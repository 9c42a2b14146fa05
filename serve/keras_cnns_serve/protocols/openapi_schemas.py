"""The schemas of request and response bodies in the OpenAPI document."""

from typing import Any

from keras_cnns_serve.protocols.oip.tensor import DTYPES


def object_of(required: str = "", **properties: Any) -> dict[str, Any]:
    """Return the schema of an object.

    Args:
        required: names of the required properties, separated by spaces.
        properties: the schemas of the properties.
    """
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required.split()
    return schema


def _list_of(items: dict[str, Any], **limits: int) -> dict[str, Any]:
    """Return the schema of an array, with limits such as minItems."""
    return {"type": "array", "items": items} | limits


def reference(name: str) -> dict[str, Any]:
    """Return a reference to a schema in SCHEMAS."""
    return {"$ref": f"#/components/schemas/{name}"}


STRING = {"type": "string"}
FRACTION: dict[str, Any] = {"type": "number", "minimum": 0, "maximum": 1}
_WHOLE = {"type": "integer", "minimum": 0}
_COUNT = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
_BOOLEAN = {"type": "boolean"}
_VALUES: dict[str, Any] = {"type": ["array", "object"]}
_DURATION = object_of("count ns", count=_WHOLE, ns=_WHOLE)
_SHAPE = _list_of({"type": "integer", "minimum": -1})
_EXAMPLES = _list_of(
    object_of("image/encoded", **{"image/encoded": reference("Bytes")}), minItems=1
)
_TENSOR = object_of("name datatype shape", name=STRING, datatype=STRING, shape=_SHAPE)
SCHEMAS: dict[str, dict[str, Any]] = {
    "Error": object_of("error", error=STRING),
    "Any": {},
    "Object": object_of(),
    "Bytes": object_of("b64", b64=STRING | {"description": "base64"})
    | {"additionalProperties": False},
    "Home": object_of("server models", server=STRING, models=_list_of(object_of())),
    "Health": object_of("status", status=STRING),
    "Models": object_of("models", models=_list_of(object_of("name versions", name=STRING))),
    "Status": object_of(
        "model_version_status",
        model_version_status=_list_of(
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
        instances=_list_of({}, minItems=1)
        | {"description": "row format: one element for each image"},
        inputs={
            "description": "columnar format: the images, or an object with the tensors by name"
        },
    )
    | {"oneOf": [{"required": ["instances"]}, {"required": ["inputs"]}]},
    "PredictResponse": object_of(predictions=_VALUES, outputs=_VALUES),
    "ExamplesRequest": object_of(
        "examples", signature_name=STRING, context=object_of(), examples=_EXAMPLES
    ),
    "ClassifyResponse": object_of("results", results=_list_of(_list_of(_list_of({})))),
    "RegressResponse": object_of("results", results=_list_of({"type": "number"})),
    "Labels": object_of(
        "predictions",
        predictions=_list_of(
            object_of(
                "labels",
                label={"type": ["string", "null"]}
                | {
                    "description": "the most probable label, or null if the image is unknown; only "
                    "if the request has a threshold"
                },
                unknown=_BOOLEAN
                | {
                    "description": "whether the highest probability is below the threshold; only "
                    "if the request has a threshold"
                },
                labels=_list_of(
                    object_of(
                        "label probability", label=STRING, probability={"type": ["number", "null"]}
                    )
                ),
            )
        ),
        min_probability=FRACTION | {"description": "the threshold of the request, if it has one"},
    ),
    "Live": object_of("live", live=_BOOLEAN),
    "Ready": object_of("ready", ready=_BOOLEAN, name=STRING),
    "Server": object_of(
        "name version extensions", name=STRING, version=STRING, extensions=_list_of(STRING)
    ),
    "Model": object_of(
        "name versions platform inputs outputs",
        name=STRING,
        versions=_list_of(STRING),
        platform=STRING,
        inputs=_list_of(_TENSOR),
        outputs=_list_of(_TENSOR),
    ),
    "Config": object_of("name platform max_batch_size input output", max_batch_size=_WHOLE),
    "Statistics": object_of(
        "model_stats",
        model_stats=_list_of(
            object_of(
                "name version inference_stats",
                inference_stats=object_of("success fail queue", success=_DURATION, fail=_DURATION),
            )
        ),
    ),
    "IndexRequest": object_of(ready=_BOOLEAN),
    "Index": _list_of(
        object_of("name version state reason", name=STRING, state=STRING, reason=STRING)
    ),
    "InferRequest": object_of(
        "inputs",
        id=STRING,
        parameters=object_of(
            timeout=_COUNT | {"description": "microseconds"},
            priority=_COUNT
            | {"description": "1 is the highest priority; 0, the default, is the lowest"},
            binary_data_output=_BOOLEAN,
            min_probability=FRACTION
            | {
                "description": "a threshold; it adds the output `unknown`: whether the highest "
                "probability of an image is below it"
            },
            min_accuracy=FRACTION
            | {"description": "an accuracy for which model.json has a threshold"},
        ),
        inputs=_list_of(
            object_of(
                "name datatype shape",
                name=STRING,
                datatype={"enum": list(DTYPES)},
                shape=_list_of(_WHOLE, maxItems=8),
                data=_list_of({}),
                parameters=object_of(
                    binary_data_size=_WHOLE, content_type={"enum": ["base64", "raw"]}
                ),
            ),
            minItems=1,
        ),
        outputs=_list_of(
            object_of(
                "name",
                name=STRING,
                parameters=object_of(binary_data=_BOOLEAN, classification=_COUNT),
            )
        ),
    ),
    "InferResponse": object_of(
        "model_name model_version outputs",
        model_name=STRING,
        model_version=STRING,
        outputs=_list_of(
            object_of("name datatype shape", name=STRING, datatype=STRING, shape=_SHAPE)
        ),
    ),
}
