import json
import os
from pathlib import Path
from typing import Any

import pytest

from keras_cnns_serve.errors import VersionRefusedError
from keras_cnns_serve.repository.manifest import (
    Preprocessing,
    Tensor,
    Threshold,
    read_manifest,
)
from tests.serve.conftest import CONFIDENCE, write_version


def test_reads_what_an_exporter_wrote(tmp_path: Path) -> None:
    manifest = read_manifest(write_version(tmp_path / "grey" / "1") / "model.json")
    assert manifest.input == Tensor("images", "uint8", (None, 8, 8, 1))
    assert manifest.outputs == (Tensor("probabilities", "float32", (None, 10)),)
    assert manifest.preprocessing == Preprocessing(8, (8, 8), 1)
    assert manifest.classes == 10
    assert sorted(manifest.files) == ["labels.txt", "model.onnx"]


def test_thresholds_are_read_and_may_be_missing(tmp_path: Path) -> None:
    assert read_manifest(write_version(tmp_path / "a" / "1") / "model.json").thresholds == ()
    without = write_version(tmp_path / "b" / "1", confidence=None)
    assert read_manifest(without / "model.json").thresholds == ()
    with_some = write_version(tmp_path / "c" / "1", confidence=CONFIDENCE)
    first, *_, last = read_manifest(with_some / "model.json").thresholds
    assert first == Threshold(threshold=0.5, min_accuracy=0.95, coverage=0.8, accuracy=0.951)
    assert last == Threshold(threshold=0.9, min_accuracy=None, coverage=0.0, accuracy=None)


PREPROCESSING = {
    "resize_shorter": 8,
    "crop": [8, 8],
    "interpolation": "bilinear",
    "antialias": True,
    "channels": 1,
}
IMAGES = {"name": "images", "dtype": "uint8", "shape": [None, 8, 8, 1]}
FILE = {"sha256": "0" * 64, "bytes": 1}
THRESHOLD = {"min_accuracy": 0.9, "threshold": 0.5, "coverage": 1, "accuracy": 0.95}


def thresholds(**changes: Any) -> dict[str, Any]:
    return {"confidence": {"thresholds": [THRESHOLD | changes]}}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": 2}, "format is 2; this server supports 1"),
        ({"format": True}, "format must be an integer, not True"),
        ({"format": "1"}, "format must be an integer"),
        ({"files": []}, "files must be an object"),
        ({"files": {"model.onnx": 3}}, "must be an object"),
        ({"files": {"model.onnx": {"sha256": "0" * 64}}}, "bytes is missing"),
        ({"files": {"model.onnx": FILE | {"bytes": -1}}}, "must be at least 0, not -1"),
        ({"files": {"model.onnx": FILE | {"sha256": "XYZ"}}}, "not a SHA-256"),
        ({"files": {"../../etc/passwd": FILE}}, "is not inside the version's directory"),
        ({"files": {"/etc/passwd": FILE}}, "is not inside the version's directory"),
        ({"files": {"a/../../b": FILE}}, "is not inside the version's directory"),
        ({"files": {"C:\\secret": FILE}}, "is not inside the version's directory"),
        ({"files": {"": FILE}}, "is not inside the version's directory"),
        ({"files": {"a\0b": FILE}}, "is not inside the version's directory"),
        ({"files": {"./model.onnx": FILE}}, "write model.onnx"),
        ({"formats": {}}, "formats must have one of onnx, onnx_int8, openvino"),
        ({"formats": {"litert": {"path": "model.tflite"}}}, "formats must have one of"),
        (
            {"formats": {"onnx": {"path": "../2/model.onnx"}}},
            "is not inside the version's directory",
        ),
        ({"formats": {"onnx": {"path": "other.onnx"}}}, "which is not listed in files"),
        ({"labels": "/etc/hostname"}, "is not inside the version's directory"),
        ({"labels": "other.txt"}, "which is not listed in files"),
        ({"labels": None}, "labels must be a string"),
        ({"inputs": []}, "inputs must be a single uint8 tensor with the name images"),
        ({"inputs": [IMAGES | {"dtype": "float32"}]}, "a single uint8 tensor"),
        ({"inputs": [IMAGES | {"shape": [None, 8, 8, -1]}]}, "null or a positive integer"),
        ({"inputs": [IMAGES | {"shape": [1, 8, 8, 1]}]}, "must begin with null"),
        ({"inputs": [IMAGES | {"shape": [None, 9, 9, 1]}]}, "preprocessing gives"),
        ({"inputs": ["images"]}, "inputs[0] must be an object"),
        ({"inputs": [IMAGES, IMAGES]}, "twice"),
        ({"outputs": [IMAGES | {"dtype": "bfloat16"}]}, "must be one of uint8, float32"),
        ({"outputs": [IMAGES | {"shape": [None, 2**63]}]}, "null or a positive integer"),
        ({"outputs": []}, "outputs must have probabilities"),
        ({"outputs": [IMAGES | {"name": "probabilities"}]}, "outputs must have probabilities"),
        ({"preprocessing": PREPROCESSING | {"channels": 4}}, "must be 1 or 3, not 4"),
        ({"preprocessing": PREPROCESSING | {"interpolation": "area"}}, "must be bilinear"),
        ({"preprocessing": PREPROCESSING | {"antialias": False}}, "must be bilinear"),
        ({"preprocessing": PREPROCESSING | {"crop": "8"}}, "a size or [height, width]"),
        ({"preprocessing": PREPROCESSING | {"crop": [8, 9]}}, "must be from 1 to 8, not 9"),
        ({"preprocessing": PREPROCESSING | {"resize_shorter": 10**9}}, "from 1 to 8192"),
        ({"confidence": [0.9]}, "confidence must be an object, not [0.9]"),
        ({"confidence": {}}, "confidence.thresholds is missing"),
        ({"confidence": {"thresholds": {}}}, "confidence.thresholds must be a list"),
        ({"confidence": {"thresholds": [0.9]}}, "thresholds[0] must be an object, not 0.9"),
        ({"confidence": {"thresholds": [{}]}}, "thresholds[0].threshold is missing"),
        (thresholds(threshold="0.9"), "threshold must be a number from 0 to 1, not '0.9'"),
        (thresholds(threshold=1.5), "threshold must be a number from 0 to 1, not 1.5"),
        (thresholds(threshold=-0.1), "must be a number from 0 to 1, not -0.1"),
        (thresholds(threshold=True), "must be a number from 0 to 1, not True"),
        (thresholds(threshold=None), "must be a number from 0 to 1, not None"),
        (thresholds(coverage=10**30), "coverage must be a number from 0 to 1, not 1"),
        (thresholds(coverage=None), "coverage must be a number from 0 to 1, not None"),
        (thresholds(accuracy="x" * 10_000), "accuracy must be a number from 0 to 1, not 'xxx"),
        (thresholds(min_accuracy=[1]), "min_accuracy must be a number from 0 to 1, not [1]"),
        ({"confidence": {"thresholds": [THRESHOLD] * 2}}, "min_accuracy is 0.9, as in an earlier"),
        ({"confidence": {"thresholds": [THRESHOLD] * 101}}, "has 101 entries; the maximum is 100"),
    ],
)
def test_refuses_what_it_cannot_trust(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    directory = write_version(tmp_path / "grey" / "1", **changes)
    with pytest.raises(VersionRefusedError) as refused:
        read_manifest(directory / "model.json")
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[1]", "is not a JSON object"),
        (b"{}", "format is missing"),
        (json.dumps({"format": 10**30}).encode(), "format must be an integer"),
        (b'{"format": 1, "confidence": {"thresholds": [{"threshold": NaN}]}}', "is not JSON"),
    ],
)
def test_refuses_a_file_that_is_no_manifest(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "model.json").write_bytes(content)
    with pytest.raises(VersionRefusedError, match=reason):
        read_manifest(tmp_path / "model.json")


def test_refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(VersionRefusedError, match="cannot be read: No such file"):
        read_manifest(tmp_path / "model.json")


def test_a_pipe_in_place_of_the_manifest_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.json")
    with pytest.raises(VersionRefusedError, match=r"model\.json is not a file"):
        read_manifest(tmp_path / "model.json")
