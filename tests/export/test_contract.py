import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from keras_cnns_export import ExportError
from keras_cnns_export.contract import (
    FormatParity,
    Model,
    ModelJson,
    Parity,
    Preprocessing,
    TensorSpec,
    check_labels,
    write_labels,
)

SQUARE = {
    "resize_shorter": 36,
    "crop": 32,
    "interpolation": "bilinear",
    "antialias": True,
    "channels": 3,
}


@pytest.mark.parametrize(
    ("shape", "resize_shorter", "crop"),
    [((32, 32, 1), 32, 32), ((12, 10, 3), 12, (12, 10)), ((10, 12, 3), 12, (10, 12))],
)
def test_preprocessing_by_default_fits_any_image(
    shape: tuple[int, int, int], resize_shorter: int, crop: int | tuple[int, int]
) -> None:
    result = Preprocessing.for_shape(shape)
    assert (result.resize_shorter, result.crop, result.channels) == (resize_shorter, crop, shape[2])


@pytest.mark.parametrize("crop", [32, [32, 32], (32, 32)])
def test_preprocessing_is_read(crop: Any) -> None:
    result = Preprocessing.from_dict({**SQUARE, "crop": crop}, (32, 32, 3))
    assert result.resize_shorter == 36


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": 0.5}, "keys .*mean.*; it must have resize_shorter, crop, interpolation"),
        ({"crop": 28}, "crop 28 with 3 channels, but the model takes images of 32x32 with 3"),
        ({"crop": [32, 31]}, "the model takes images of 32x32"),
        ({"channels": 1}, "with 1 channels, but the model takes .* with 3"),
        ({"resize_shorter": 31}, "resize_shorter is 31; .* at least 32"),
        ({"interpolation": "lanczos"}, "it must be bilinear"),
        ({"antialias": False}, "with antialias"),
    ],
)
def test_preprocessing_that_would_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        Preprocessing.from_dict({**SQUARE, **change}, (32, 32, 3))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "b"], "2 labels for a model of 3 classes"),
        ("abc", "a list of names, not the string 'abc'"),
        (["a", "b", ""], "label 2 is ''"),
        (["a", "b\nc", "d"], r"label 1 is 'b\\nc'"),
        (["a", "b\u2028c", "d"], "label 1"),  # str.splitlines() would split it
        ([" a", "b", "c"], "label 0 is ' a'"),
        (["a", "b", 3], "label 2 is 3"),
        (["a", "b", "a"], "labels 0 and 2 are both 'a'; each class needs a dif"),
    ],
)
def test_labels_that_a_reader_would_miscount_are_refused(labels: Any, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        check_labels(labels, 3)


def test_model_json_has_the_contracts_keys_and_every_files_checksum(tmp_path: Path) -> None:
    write_labels(tmp_path, ("zéro", "one"))
    (tmp_path / "variables").mkdir()
    (tmp_path / "variables" / "data").write_bytes(b"weights")
    ModelJson(
        name="digits",
        created="2026-11-23T16:40:00Z",
        model=Model("resnet20", 270906),
        inputs=(TensorSpec("images", "uint8", (None, 32, 32, 1)),),
        outputs=(TensorSpec("probabilities", "float32", (None, 2)),),
        preprocessing=Preprocessing.for_shape((32, 32, 1)),
        formats={"onnx": {"path": "model.onnx", "opset": 17}},
        metrics=None,
        parity=Parity("test", 5, {"onnx": FormatParity(1e-7, 1e-9, 1.0, 0.8, 3)}),
    ).write(tmp_path)

    content = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
    label_bytes = "zéro\none\n".encode()  # 10 bytes
    assert content == {
        "format": 1,
        "name": "digits",
        "created": "2026-11-23T16:40:00Z",
        "model": {"architecture": "resnet20", "parameters": 270906},
        "inputs": [{"name": "images", "dtype": "uint8", "shape": [None, 32, 32, 1]}],
        "outputs": [{"name": "probabilities", "dtype": "float32", "shape": [None, 2]}],
        "preprocessing": {**SQUARE, "resize_shorter": 32, "channels": 1},
        "labels": "labels.txt",
        "formats": {"onnx": {"path": "model.onnx", "opset": 17}},
        "metrics": None,
        "calibration": None,
        "confidence": None,
        "pixels": None,
        "golden": None,
        "parity": {
            "split": "test",
            "samples": 5,
            "formats": {
                "onnx": {
                    "largest_difference": 1e-7,
                    "mean_difference": 1e-9,
                    "top_1_agreement": 1.0,
                    "accuracy": 0.8,
                    "worst_sample": 3,
                }
            },
            "own_precision": None,
        },
        "files": {
            "labels.txt": {
                "sha256": hashlib.sha256(label_bytes).hexdigest(),
                "bytes": len(label_bytes),
            },
            "variables/data": {"sha256": hashlib.sha256(b"weights").hexdigest(), "bytes": 7},
        },
    }
