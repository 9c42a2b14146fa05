"""The requests that TensorFlow Serving runs when it loads a version, before it takes others.

`assets.extra/tf_serving_warmup_requests` is a TFRecord of PredictionLog messages. They are encoded
here by their field numbers: the package with their classes, tensorflow-serving-api, would be a
large requirement for four nested messages.
"""

from pathlib import Path

from keras_cnns_export.source import Source

PATH = "assets.extra/tf_serving_warmup_requests"

# Field numbers: prediction_log.proto, predict.proto, model.proto of tensorflow_serving/apis, and a
# map's entry, which protobuf encodes as a message of key 1 and value 2.
PREDICT_LOG, REQUEST = 6, 1
MODEL_SPEC, INPUTS = 1, 2
NAME, SIGNATURE_NAME = 1, 3
KEY, VALUE = 1, 2


def write_warmup(source: Source, version: Path) -> None:
    """Write one request for each signature that TensorFlow Serving's Predict can call."""
    import numpy as np
    import tensorflow as tf

    image = np.full(source.graph.image_shape, 127, np.uint8)
    png = tf.io.encode_png(image).numpy()
    requests = [
        ("serving_default", "images", image[np.newaxis]),
        ("serving_bytes", "image_bytes", [png]),
    ]
    path = version / PATH
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as file:
        for signature, name, value in requests:
            tensor = tf.make_tensor_proto(value).SerializeToString()
            file.write(prediction_log(source.name, signature, name, tensor))


def prediction_log(model: str, signature: str, name: str, tensor: bytes) -> bytes:
    """A PredictionLog of one PredictRequest with one input, a serialized TensorProto."""
    spec = field(NAME, model.encode()) + field(SIGNATURE_NAME, signature.encode())
    entry = field(KEY, name.encode()) + field(VALUE, tensor)
    request = field(MODEL_SPEC, spec) + field(INPUTS, entry)
    return field(PREDICT_LOG, field(REQUEST, request))


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field: its tag, the length of its content, the content."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    result: list[int] = []
    while value > 127:
        result.append(value & 127 | 128)
        value >>= 7
    return bytes([*result, value])
