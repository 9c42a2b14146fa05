"""TensorFlow Serving's signatures, as an exported SavedModel has them."""

from dataclasses import dataclass

from .errors import SignatureError
from .manifest import Manifest, Tensor

DEFAULT = "serving_default"  # pixels in
BYTES = "serving_bytes"  # encoded images in
CLASSIFY = "classify"  # tf.Example with an encoded image in, labels with scores out
IMAGE_FEATURE = "image/encoded"  # of the tf.Example

PREDICT_METHOD = "tensorflow/serving/predict"
CLASSIFY_METHOD = "tensorflow/serving/classify"
REGRESS_METHOD = "tensorflow/serving/regress"

# TensorFlow's names of the types.
TENSORFLOW_TYPES = {
    "uint8": "DT_UINT8",
    "float32": "DT_FLOAT",
    "int32": "DT_INT32",
    "int64": "DT_INT64",
    "string": "DT_STRING",
}


@dataclass(frozen=True)
class Signature:
    """What goes in and what comes out under one name."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    method: str

    @property
    def encoded(self) -> bool:
        """Whether it takes encoded images."""
        return self.inputs[0].dtype == "string"


def signatures(manifest: Manifest) -> dict[str, Signature]:
    """Every signature of a version, by name."""
    image_bytes = Tensor("image_bytes", "string", (None,))
    examples = Tensor("inputs", "string", (None,))
    classes = Tensor("classes", "string", (None, manifest.classes))
    scores = Tensor("scores", "float32", (None, manifest.classes))
    every = [
        Signature(DEFAULT, (manifest.input,), manifest.outputs, PREDICT_METHOD),
        Signature(BYTES, (image_bytes,), manifest.outputs, PREDICT_METHOD),
        Signature(CLASSIFY, (examples,), (classes, scores), CLASSIFY_METHOD),
    ]
    return {signature.name: signature for signature in every}


def find_signature(manifest: Manifest, name: str) -> Signature:
    """The signature of this name; of none, the default.

    Raises:
        SignatureError: there is none.
    """
    known = signatures(manifest)
    if (name or DEFAULT) not in known:
        raise SignatureError(
            f'Serving signature name: "{name:.80}" not found in signature def; there are '
            + ", ".join(known)
        )
    return known[name or DEFAULT]


def examples_output(manifest: Manifest, signature_name: str, method: str) -> str:
    """The output that answers a classify or a regress request.

    Raises:
        SignatureError: the signature has another method.
    """
    single = [o.name for o in manifest.outputs if o.shape[1:] in ((), (1,))]
    if method == REGRESS_METHOD:
        name = signature_name or (single[0] if single else DEFAULT)
        if name in single:
            return name
        was = find_signature(manifest, name).method
    else:
        was = find_signature(manifest, signature_name).method
        if was == CLASSIFY_METHOD or signature_name in ("", DEFAULT):
            return "probabilities"
    kind = method.rpartition("/")[2]
    hint = (
        "; an output of one number for each image can be asked for by its name"
        if method == REGRESS_METHOD
        else ""
    )
    raise SignatureError(f"Expected {kind} signature method_name to be {method}. Was: {was}{hint}")
