"""What Triton and KServe read beside a model's versions: config.pbtxt and a manifest."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from keras_cnns_export.contract import LABELS, TensorSpec

CONFIG = "config.pbtxt"
MANIFEST = "inference-service.yaml"
MAX_BATCH_SIZE = 64  # images that Triton joins into one call
QUEUE_DELAY = 1000  # microseconds that the first of a batch waits for others
MAX_LABEL = 63  # characters of a DNS label (RFC 1035)
TYPES = {"uint8": "TYPE_UINT8", "int32": "TYPE_INT32", "float32": "TYPE_FP32"}


def triton_config(
    name: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    formats: Mapping[str, Mapping[str, Any]],
) -> str:
    """config.pbtxt of a model whose versions hold `model.onnx`.

    The batch is left out of the shapes, as Triton wants it of a model that takes batches; the
    labels file names the classes to a client of the classification extension.
    """
    lines = [
        f"name: {json.dumps(name)}",
        'backend: "onnxruntime"',
        f"default_model_filename: {json.dumps(formats['onnx']['path'])}",
        f"max_batch_size: {MAX_BATCH_SIZE}",
    ]
    for kind, tensors in (("input", inputs), ("output", outputs)):
        for tensor in tensors:
            labels = ""
            if tensor.name == "probabilities":
                labels = f", label_filename: {json.dumps(LABELS)}"
            dims = ", ".join(str(size or -1) for size in tensor.shape[1:])
            lines.append(
                f"{kind} {{ name: {json.dumps(tensor.name)}, data_type: {TYPES[tensor.dtype]}, "
                f"dims: [{dims}]{labels} }}"
            )
    lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {QUEUE_DELAY} }}")
    return "\n".join(lines) + "\n"


def kserve_manifest(name: str, formats: Mapping[str, Any], storage_uri: str | None = None) -> str:
    """An InferenceService for TensorFlow Serving where there is a SavedModel, else for Triton.

    Args:
        name: the model's.
        formats: those that were written.
        storage_uri: where the model's directory lies for the cluster; by default a volume claim
            `models` with it at its root. TensorFlow Serving is given the directory of the model,
            Triton the one above it.
    """
    uri = (storage_uri or f"pvc://models/{name}").rstrip("/")
    if "saved_model" in formats:
        runtime, protocol, where = "tensorflow", "v1", uri
    else:
        runtime, protocol, where = "triton", "v2", uri.rpartition("/")[0]
    return "\n".join(
        [
            "apiVersion: serving.kserve.io/v1beta1",
            "kind: InferenceService",
            "metadata:",
            f"  name: {json.dumps(resource_name(name))}",
            "spec:",
            "  predictor:",
            "    model:",
            "      modelFormat:",
            f"        name: {runtime}",
            f"      protocolVersion: {protocol}",
            f"      storageUri: {json.dumps(where)}",
            "",
        ]
    )


def resource_name(name: str) -> str:
    """Return a model's name as Kubernetes takes it: a DNS label (RFC 1035).

    It has lower-case letters, digits and '-', begins with a letter and ends with a letter or digit.
    A name of more than 63 characters is cut and ends in a hash of the whole name.
    """
    label = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
    if not label[:1].isalpha():
        label = f"model-{label}"
    if len(label) > MAX_LABEL:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        label = f"{label[: MAX_LABEL - len(digest) - 1].rstrip('-')}-{digest}"
    return label
