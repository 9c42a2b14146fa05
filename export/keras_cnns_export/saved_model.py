"""SavedModel: what TensorFlow Serving loads. Three signatures over one network.

- `serving_default`: `images`, uint8 [N, H, W, C] -> the named outputs.
- `serving_bytes`: `image_bytes`, string [N], JPEG or PNG -> the same.
- `classify`: `inputs`, tf.Example with the feature `image/encoded` -> `classes`, every label, and
  `scores`, [N, K] each, in TensorFlow Serving's form for its Classify call.

TensorFlow is imported where it is used, as in every format's file: reading the table of formats
costs nothing.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_cnns_export.contract import write_labels
from keras_cnns_export.errors import DISK_ERRORS
from keras_cnns_export.source import Source

if TYPE_CHECKING:
    from keras_cnns_export.graph import Array, Predict

PATH = "saved_model.pb"
FILES = (PATH, "fingerprint.pb", "variables/*", "assets/*", "assets.extra/*")
CLASSIFY_METHOD = "tensorflow/serving/classify"


def write(source: Source, version: Path) -> dict[str, Any]:
    """Write the SavedModel and its warm-up requests into `version`; return model.json's entry.

    Raises:
        OSError: the disk refused a file, with one of `DISK_ERRORS`.
        tf.errors.OpError: TensorFlow failed otherwise.
    """
    import tensorflow as tf

    from keras_cnns_export.warmup import write_warmup

    module = tf.Module()
    module.variables_of_network = [variable.value for variable in source.graph.network.variables]
    module.labels = tf.saved_model.Asset(str(write_labels(version, source.labels)))
    functions = signatures(source)
    with disk_errors():
        tf.saved_model.save(module, str(version), functions)
        _set_method(version, "classify", CLASSIFY_METHOD)
        write_warmup(source, version)
    return {"path": PATH, "signatures": list(functions)}


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Turn TensorFlow's exception for one of `DISK_ERRORS` within the block into an OSError.

    TensorFlow has no exception of its own for a full disk: a ResourceExhaustedError may also be of
    memory. The system's reason is the end of the message.
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


def signatures(source: Source) -> dict[str, Any]:
    """The functions of the SavedModel by the name of their signature."""
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
    """Name the call that a signature is for: TensorFlow writes `predict` for all."""
    from tensorflow.core.protobuf import saved_model_pb2

    path = version / PATH
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    model.meta_graphs[0].signature_def[signature].method_name = method
    path.write_bytes(model.SerializeToString(deterministic=True))


def load(version: Path) -> "Predict":
    """The written SavedModel as a function: images uint8 [N, H, W, C] -> named outputs."""
    import tensorflow as tf

    model = tf.saved_model.load(str(version))
    signature = model.signatures["serving_default"]

    def predict(images: "Array") -> "Mapping[str, Array]":
        model  # noqa: B018  the signature holds its variables weakly: keep the model alive
        return {name: value.numpy() for name, value in signature(tf.constant(images)).items()}

    return predict
