"""The part of TensorFlow Serving's protocol that REST and gRPC share.

The states of versions and the signatures are returned as dicts, which can be written as JSON. Their
keys are also the names of the fields of the gRPC messages.
https://www.tensorflow.org/tfx/serving/api_rest
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from keras_cnns_serve.core.dataplane import Dataplane
from keras_cnns_serve.core.prediction import Prediction, Target
from keras_cnns_serve.errors import SignatureError
from keras_cnns_serve.repository.manifest import Manifest, Tensor

DEFAULT = "serving_default"  # signature for pixels
BYTES = "serving_bytes"  # signature for encoded images
IMAGE_FEATURE = "image/encoded"  # name of the feature that contains a tf.Example's encoded image

PREDICT_METHOD = "tensorflow/serving/predict"
CLASSIFY_METHOD = "tensorflow/serving/classify"
REGRESS_METHOD = "tensorflow/serving/regress"

_REGRESS_HINT = "; signature_name can be the name of an output with one number for each image"
_TENSORFLOW_TYPES = {
    "uint8": "DT_UINT8",
    "float32": "DT_FLOAT",
    "int32": "DT_INT32",
    "int64": "DT_INT64",
    "string": "DT_STRING",
}


@dataclass(frozen=True)
class Signature:
    """A signature of a SavedModel."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    method: str

    @property
    def encoded(self) -> bool:
        """Return whether the inputs are encoded images."""
        return self.inputs[0].dtype == "string"


def _signatures(manifest: Manifest) -> dict[str, Signature]:
    """Return the signatures of an exported SavedModel, by name."""
    image_bytes = Tensor("image_bytes", "string", (None,))
    examples = Tensor("inputs", "string", (None,))  # tf.Examples with encoded images
    classes = Tensor("classes", "string", (None, manifest.classes))
    scores = Tensor("scores", "float32", (None, manifest.classes))
    every = [
        Signature(DEFAULT, (manifest.input,), manifest.outputs, PREDICT_METHOD),
        Signature(BYTES, (image_bytes,), manifest.outputs, PREDICT_METHOD),
        Signature("classify", (examples,), (classes, scores), CLASSIFY_METHOD),
    ]
    return {signature.name: signature for signature in every}


def find_signature(manifest: Manifest, name: str, method: str | None = None) -> Signature:
    """Return the signature of this name, or the default one for an empty name.

    Args:
        manifest: the manifest of the version.
        name: the name in the request.
        method: the required method of the signature, if any.

    Raises:
        SignatureError: there is no such signature, or it has another method.
    """
    known = _signatures(manifest)
    signature = known.get(name or DEFAULT)
    if signature is None:
        raise SignatureError(
            f'Serving signature name: "{name:.80}" not found in signature def; there are '
            + ", ".join(known)
        )
    if method not in (None, signature.method):
        raise SignatureError(
            f"Expected {method.rpartition('/')[2]} signature method_name to be {method}. "
            f"Was: {signature.method}{_REGRESS_HINT if method == REGRESS_METHOD else ''}"
        )
    return signature


async def infer_examples(
    dataplane: Dataplane,
    target: Target,
    signature_name: str,
    contents: Sequence[bytes],
    method: str,
    deadline: float | None,
) -> tuple[Prediction, NDArray[Any]]:
    """Answer a classify or regress request.

    Args:
        dataplane: the data plane.
        target: the version.
        signature_name: the signature; for regression, it can be the name of an output.
        contents: the encoded image of each tf.Example.
        method: CLASSIFY_METHOD or REGRESS_METHOD.
        deadline: as for `Dataplane.predict_bytes`.

    Returns:
        The prediction, and the results for the images: for a classify request, the scores of all
        labels, [N, K]; for a regress request, a number for each image, [N].

    Raises:
        SignatureError: the signature does not exist, or has another method.
        Also the errors of `Dataplane.predict_bytes`.
    """
    output = _examples_output(dataplane.metadata(target).manifest, signature_name, method)
    prediction = await dataplane.predict_bytes(
        target, contents, outputs=(output,), deadline=deadline
    )
    values = prediction.outputs[output]
    return prediction, values.reshape(-1) if method == REGRESS_METHOD else values


def _examples_output(manifest: Manifest, signature_name: str, method: str) -> str:
    """Return the name of the output for a classify or regress request."""
    if method == CLASSIFY_METHOD:
        if signature_name not in ("", DEFAULT):
            find_signature(manifest, signature_name, CLASSIFY_METHOD)
        return "probabilities"
    single = [output.name for output in manifest.outputs if output.shape[1:] in ((), (1,))]
    name = signature_name or next(iter(single), DEFAULT)
    if name not in single:
        # Always raises an error, because no signature has this method.
        find_signature(manifest, name, REGRESS_METHOD)
    return name


def model_version_status(dataplane: Dataplane, target: Target) -> list[dict[str, Any]]:
    """Return the states of all versions, the newest first, or the state of the target's version.

    Raises:
        ModelNotFoundError: the repository has no such model or version.
    """
    return [
        {
            "version": str(status.version),  # protobuf's JSON writes int64 as a string
            "state": status.state,
            "status": {"error_code": status.code, "error_message": status.message},
        }
        for status in dataplane.status(target)
    ]


def signature_def(manifest: Manifest) -> dict[str, Any]:
    """Return TensorFlow's SignatureDefMap of a version."""
    described = {
        name: {
            "inputs": _tensor_infos(signature.inputs),
            "outputs": _tensor_infos(signature.outputs),
            "method_name": signature.method,
        }
        for name, signature in _signatures(manifest).items()
    }
    return {"signature_def": described}


def _tensor_infos(tensors: Sequence[Tensor]) -> dict[str, Any]:
    return {
        tensor.name: {
            "name": tensor.name,
            "dtype": _TENSORFLOW_TYPES[tensor.dtype],
            "tensor_shape": {
                "dim": [
                    {"size": str(-1 if size is None else size), "name": ""} for size in tensor.shape
                ],
                "unknown_rank": False,
            },
        }
        for tensor in tensors
    }
