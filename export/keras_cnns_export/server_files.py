"""The files beside a model's versions: config.pbtxt and labels for Triton, a KServe manifest."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from keras_cnns_export.contract import LABELS, ModelJson, TensorSpec

_CONFIG = "config.pbtxt"
_MANIFEST = "inference-service.yaml"
_MAX_BATCH_SIZE = 64  # maximum number of images that Triton combines into one call
_QUEUE_DELAY = 1000  # maximum time in microseconds that the first image of a batch waits for others
_MAX_NAME = 63  # maximum number of characters of a DNS label (RFC 1035)
_TYPES = {"uint8": "TYPE_UINT8", "int32": "TYPE_INT32", "float32": "TYPE_FP32"}


def server_files(
    content: ModelJson, labels: Sequence[str], storage_uri: str | None = None, *, kserve: bool
) -> dict[str, str | None]:
    """Return a dict from the names of the files to their texts.

    If the version has no model.onnx, the texts of Triton's files are None, because the files of an
    earlier version would name a missing file. The manifest of KServe is included if `kserve` is
    true.
    """
    files: dict[str, str | None] = {LABELS: None, _CONFIG: None}
    if "onnx" in content.formats:
        files[LABELS] = "".join(f"{label}\n" for label in labels)
        files[_CONFIG] = triton_config(
            content.name, content.inputs, content.outputs, content.formats
        )
    if kserve:
        files[_MANIFEST] = kserve_manifest(content.name, content.formats, storage_uri)
    return files


def triton_config(
    name: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    formats: Mapping[str, Mapping[str, Any]],
) -> str:
    """Return config.pbtxt for a model whose versions contain `model.onnx`.

    The shapes omit the batch dimension; Triton requires this of a model that takes batches. The
    labels file gives the names of the classes to clients of the classification extension.
    """
    lines = [
        f"name: {json.dumps(name)}",
        'backend: "onnxruntime"',
        f"default_model_filename: {json.dumps(formats['onnx']['path'])}",
        f"max_batch_size: {_MAX_BATCH_SIZE}",
    ]
    for kind, tensors in (("input", inputs), ("output", outputs)):
        for tensor in tensors:
            labels = ""
            if tensor.name == "probabilities":
                labels = f", label_filename: {json.dumps(LABELS)}"
            dims = ", ".join(str(size or -1) for size in tensor.shape[1:])
            lines.append(
                f"{kind} {{ name: {json.dumps(tensor.name)}, data_type: {_TYPES[tensor.dtype]}, "
                f"dims: [{dims}]{labels} }}"
            )
    lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {_QUEUE_DELAY} }}")
    return "\n".join(lines) + "\n"


def kserve_manifest(name: str, formats: Iterable[str], storage_uri: str | None = None) -> str:
    """Return an InferenceService for `kubectl apply -f`, as JSON, which is also YAML.

    The service runs TensorFlow Serving if there is a SavedModel, and Triton otherwise.

    Args:
        name: the model's name.
        formats: the names of the written formats.
        storage_uri: the URI of the model's directory in the cluster; by default, the directory lies
            at the root of a volume claim `models`. TensorFlow Serving gets the directory of the
            model, and Triton gets its parent.
    """
    uri = (storage_uri or f"pvc://models/{name}").rstrip("/")
    if "saved_model" in formats:
        runtime, protocol, storage = "tensorflow", "v1", uri
    else:
        runtime, protocol, storage = "triton", "v2", uri.rpartition("/")[0]
    model = {
        "modelFormat": {"name": runtime},
        "protocolVersion": protocol,
        "storageUri": storage,
    }
    manifest = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": resource_name(name)},
        "spec": {"predictor": {"model": model}},
    }
    return json.dumps(manifest, indent=2) + "\n"


def resource_name(name: str) -> str:
    """Return a model's name as a Kubernetes resource name: a DNS label (RFC 1035).

    A DNS label has lower-case letters, digits and '-', begins with a letter and ends with a letter
    or digit. A name of more than 63 characters is cut and ends in a hash of the whole name.
    """
    label = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
    if not label[:1].isalpha():
        label = f"model-{label}"
    if len(label) > _MAX_NAME:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        label = f"{label[: _MAX_NAME - len(digest) - 1].rstrip('-')}-{digest}"
    return label
