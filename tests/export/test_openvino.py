from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest

from keras_cnns_export import ExportError
from keras_cnns_export.formats import FORMATS
from keras_cnns_export.formats import openvino as openvino_format


def test_names_types_and_batch_dimension(all_formats: Path) -> None:
    model = openvino.Core().read_model(all_formats / "openvino" / "model.xml")
    (images,), (probabilities,) = model.inputs, model.outputs
    assert (images.any_name, images.element_type.to_string()) == ("images", "u8")
    assert images.partial_shape.to_string() == "[?,12,10,3]"
    assert (probabilities.any_name, probabilities.partial_shape.to_string()) == (
        "probabilities",
        "[?,5]",
    )


def test_every_convolution_of_the_int8_file_is_quantized(all_formats: Path) -> None:
    model = openvino.Core().read_model(all_formats / "openvino" / "model.int8.xml")
    convolutions = [op for op in model.get_ops() if op.get_type_name() == "Convolution"]
    assert len(convolutions) == 2
    for convolution in convolutions:
        assert convolution.input_value(0).get_node().get_type_name() == "FakeQuantize"


def test_float32_is_float32_and_bfloat16_is_not(all_formats: Path, trained: Any) -> None:
    """OpenVINO would use bfloat16 by default if the CPU has it: each format requests its type."""
    images = trained[1]
    exact = openvino_format.load(all_formats)(images)["probabilities"]
    expected = trained[0].predict(images.astype("float32"), verbose=0)
    assert np.abs(exact - expected).max() < 1e-5
    if openvino_format.has_bfloat16():
        coarse = openvino_format.load_bfloat16(all_formats)(images)["probabilities"]
        assert 1e-5 < np.abs(coarse - exact).max() < 0.05
    else:
        with pytest.raises(ExportError, match="this CPU has no bfloat16"):
            openvino_format.write_bfloat16(None, all_formats)  # type: ignore[arg-type]


def test_an_answer_is_not_overwritten_by_the_next(all_formats: Path, trained: Any) -> None:
    predict = FORMATS["openvino"].load(all_formats)
    first = predict(trained[1][:1])["probabilities"]
    kept = first.copy()
    predict(trained[1][1:2])
    np.testing.assert_array_equal(first, kept)


def test_two_models_leave_the_signal_stack(all_formats: Path) -> None:
    """After each test, conftest.py compares the signal stack with the one before all tests."""
    first, second = (openvino_format.load(all_formats) for _ in range(2))
    del first
    del second
