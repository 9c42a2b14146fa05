from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from keras_cnns_export.formats.saved_model import WARMUP_PATH, field


def test_the_classes_of_tensorflow_serving_read_the_requests(version: Path) -> None:
    model = tf.saved_model.load(str(version))
    asked: dict[str, Any] = {}
    for record in tf.data.TFRecordDataset(str(version / WARMUP_PATH)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        assert log.WhichOneof("log_type") == "predict_log"
        request = log.predict_log.request
        assert request.model_spec.name == "tiny"
        signature = model.signatures[request.model_spec.signature_name]
        inputs = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
        answer = signature(**{name: tf.constant(value) for name, value in inputs.items()})
        assert answer["probabilities"].shape == (1, 5)
        asked[request.model_spec.signature_name] = list(inputs)
    assert asked == {"serving_default": ["images"], "serving_bytes": ["image_bytes"]}


@pytest.mark.parametrize("size", [0, 1, 127, 128, 300, 20_000])
def test_a_field_of_any_length_is_read_back(size: int) -> None:
    content = field(1, field(1, b"m" * size))
    request = prediction_log_pb2.PredictLog.FromString(field(1, content)).request
    assert request.model_spec.name == "m" * size
