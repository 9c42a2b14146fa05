"""SavedModel: what TensorFlow Serving loads. Signature `serving_default`, named outputs.

TensorFlow is imported where it is used, as in every format's file: reading the table of formats
costs nothing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_cnns_export.source import Source

if TYPE_CHECKING:
    from keras_cnns_export.graph import Array, Predict

PATH = "saved_model.pb"
FILES = (PATH, "fingerprint.pb", "variables/*", "assets/*")  # patterns in the version's directory


def write(source: Source, version: Path) -> dict[str, Any]:
    """Write the SavedModel into `version`; returns its entry in model.json.

    Raises:
        OSError: TensorFlow could not write, with the system's reason: a full disk.
    """
    import tensorflow as tf

    graph = source.graph
    module = tf.Module()
    module.variables_of_network = [variable.value for variable in graph.network.variables]
    try:
        tf.saved_model.save(module, str(version), {"serving_default": graph.function})
    except tf.errors.OpError as error:  # "...PATH; No space left on device [Op:SaveV2]"
        raise OSError(error.message.rpartition("; ")[2].partition(" [Op:")[0]) from error
    return {"path": PATH}


def load(version: Path) -> "Predict":
    """The written SavedModel as a function: images uint8 [N, H, W, C] -> named outputs."""
    import tensorflow as tf

    model = tf.saved_model.load(str(version))
    signature = model.signatures["serving_default"]

    def predict(images: "Array") -> "Mapping[str, Array]":
        model  # noqa: B018  the signature holds its variables weakly: keep the model alive
        return {name: value.numpy() for name, value in signature(tf.constant(images)).items()}

    return predict
