"""SavedModel: the format that TensorFlow Serving loads. Three signatures share one network.

- `serving_default`: `images`, uint8 [N, H, W, C] -> the named outputs.
- `serving_bytes`: `image_bytes`, string [N], JPEG or PNG -> the same outputs.
- `classify`: `inputs`, string [N], serialized tf.Examples with the feature `image/encoded` ->
  `classes`, string [N, K], with all labels in each row, and `scores`, float32 [N, K]. TensorFlow
  Serving requires these names and shapes for its Classify call.

TensorFlow Serving runs the requests in `assets.extra/tf_serving_warmup_requests` when it loads a
version, before it accepts other requests. The file is a TFRecord of PredictionLog messages. Their
Python classes are in the package tensorflow-serving-api, which would be a large requirement for
four nested messages. This module therefore encodes the messages itself, by their field numbers.

TensorFlow is imported inside the functions, as in the module of every format, so that the table of
formats can be read without TensorFlow.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_cnns_export.contract import write_labels
from keras_cnns_export.errors import DISK_ERRORS

if TYPE_CHECKING:
    from keras_cnns_export.batches import Array, Predict
    from keras_cnns_export.graph import Source

_PATH = "saved_model.pb"
WARMUP_PATH = "assets.extra/tf_serving_warmup_requests"
FILES = (_PATH, "fingerprint.pb", "variables/*", "assets/*", "assets.extra/*")
_CLASSIFY_METHOD = "tensorflow/serving/classify"
# Field numbers of prediction_log.proto, predict.proto and model.proto in tensorflow_serving/apis,
# and of a map's entry, which protobuf encodes as a message with the fields key (1) and value (2).
_PREDICT_LOG, _REQUEST = 6, 1
_MODEL_SPEC, _INPUTS = 1, 2
_NAME, _SIGNATURE_NAME = 1, 3
_KEY, _VALUE = 1, 2


def write(source: Source, version: Path) -> dict[str, Any]:
    """Write the SavedModel and its warm-up requests into `version`; return model.json's entry.

    Raises:
        OSError: a file cannot be written; the error number is one of `DISK_ERRORS`.
        tf.errors.OpError: TensorFlow failed for another reason.
    """
    import tensorflow as tf

    module = tf.Module()
    module.variables_of_network = [variable.value for variable in source.graph.network.variables]
    module.labels = tf.saved_model.Asset(str(write_labels(version, source.labels)))
    functions = _signatures(source)
    with disk_errors():
        tf.saved_model.save(module, str(version), functions)
        _set_method(version, "classify", _CLASSIFY_METHOD)
        _write_warmup(source, version)
    return {"path": _PATH, "signatures": list(functions)}


def load(version: Path) -> Predict:
    """Load the SavedModel as a function: images uint8 [N, H, W, C] -> named outputs."""
    import tensorflow as tf

    model = tf.saved_model.load(str(version))
    signature = model.signatures["serving_default"]

    def predict(images: Array) -> Mapping[str, Array]:
        model  # noqa: B018  keeps the model alive, since the signature has only weak references
        return {name: value.numpy() for name, value in signature(tf.constant(images)).items()}

    return predict


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Within the block, convert an exception of TensorFlow to an OSError if the disk is the reason.

    The reasons are those of `DISK_ERRORS`. TensorFlow has no exception type for a full disk: a
    ResourceExhaustedError may also concern memory. The reason is therefore taken from the message,
    which ends with the system's text for the error.
    """
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:  # "...PATH; No space left on device [Op:SaveV2]"
        reason = error.message.rpartition("; ")[2].partition(" [Op:")[0]
        for number in DISK_ERRORS:
            if reason == os.strerror(number):
                raise OSError(number, reason) from error
        raise


def _signatures(source: Source) -> dict[str, Any]:
    """Return a dict from the name of each signature to its function."""
    import tensorflow as tf

    from keras_cnns_export.image_bytes import decode_batch

    serve, preprocessing = source.graph.function, source.preprocessing

    def function(name: str) -> Any:
        signature = [tf.TensorSpec((None,), tf.string, name=name)]
        return tf.function(input_signature=signature, autograph=False)

    @function("image_bytes")
    def serve_bytes(image_bytes: Any) -> Any:
        return serve(decode_batch(image_bytes, preprocessing))

    @function("inputs")
    def classify(inputs: Any) -> Any:
        feature = {"image/encoded": tf.io.FixedLenFeature((), tf.string)}
        image_bytes = tf.io.parse_example(inputs, feature)["image/encoded"]
        scores = serve(decode_batch(image_bytes, preprocessing))["probabilities"]
        labels = tf.constant([source.labels])
        return {"classes": tf.tile(labels, (tf.shape(scores)[0], 1)), "scores": scores}

    return {"serving_default": serve, "serving_bytes": serve_bytes, "classify": classify}


def _set_method(version: Path, signature: str, method: str) -> None:
    """Set the method name of a signature, since TensorFlow writes `predict` for every signature."""
    from tensorflow.core.protobuf import saved_model_pb2

    path = version / _PATH
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    model.meta_graphs[0].signature_def[signature].method_name = method
    path.write_bytes(model.SerializeToString(deterministic=True))


def _write_warmup(source: Source, version: Path) -> None:
    """Write one request for each signature that TensorFlow Serving's Predict can call."""
    import numpy as np
    import tensorflow as tf

    image = np.full(source.graph.image_shape, 127, np.uint8)
    png = tf.io.encode_png(image).numpy()
    requests = [
        ("serving_default", "images", image[np.newaxis]),
        ("serving_bytes", "image_bytes", [png]),
    ]
    path = version / WARMUP_PATH
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as file:
        for signature, name, value in requests:
            tensor = tf.make_tensor_proto(value).SerializeToString()
            file.write(_prediction_log(source.name, signature, name, tensor))


def _prediction_log(model: str, signature: str, name: str, tensor: bytes) -> bytes:
    """Encode a PredictionLog that contains one PredictRequest.

    Args:
        model: the model's name.
        signature: the name of the signature.
        name: the name of the request's single input.
        tensor: the value of this input, as a serialized TensorProto.
    """
    spec = field(_NAME, model.encode()) + field(_SIGNATURE_NAME, signature.encode())
    entry = field(_KEY, name.encode()) + field(_VALUE, tensor)
    request = field(_MODEL_SPEC, spec) + field(_INPUTS, entry)
    return field(_PREDICT_LOG, field(_REQUEST, request))


def field(number: int, content: bytes) -> bytes:
    """Encode a length-delimited field: its tag, the length of its content, and the content."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    result: list[int] = []
    while value > 127:
        result.append(value & 127 | 128)
        value >>= 7
    return bytes([*result, value])
