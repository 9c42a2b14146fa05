"""The thresholds in model.json are those of the probabilities that are served."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from keras_cnns.intervals import wilson_interval
from keras_cnns_export import export
from keras_cnns_export.cli import summary


@pytest.mark.parametrize("calibrate", [False, True])
def test_thresholds_are_those_of_the_exported_probabilities(
    tmp_path: Path, trained: Any, labels: tuple[str, ...], calibrate: bool
) -> None:
    model, images, classes = trained
    wrong = np.where(np.arange(len(classes)) % 4, classes, (classes + 1) % len(labels))
    version = export(
        model,
        tmp_path / "tiny",
        labels=labels,
        formats=("onnx",),
        samples=("validation", (images, wrong)),
        calibrate=calibrate,
        report=True,
    )
    content = json.loads((version / "model.json").read_text(encoding="utf-8"))
    assert (content["calibration"] is not None) == calibrate
    session = onnxruntime.InferenceSession(str(version / "model.onnx"))
    (probabilities,) = session.run(["probabilities"], {"images": images})
    highest, is_correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == wrong
    confidence = content["confidence"]
    assert (confidence["split"], confidence["samples"]) == ("validation", len(images))
    assert confidence["thresholds"]
    for row in confidence["thresholds"]:
        answered = highest >= np.float32(row["threshold"])
        assert row["answered"] == answered.sum()
        assert row["correct"] == is_correct[answered].sum()
        assert row["coverage"] == answered.mean()
        assert row["coverage_interval"] == [*wilson_interval(row["answered"], len(images))]
    page = (version / "report.html").read_text(encoding="utf-8")
    assert "<h2>Thresholds</h2>" in page


def test_an_accuracy_that_is_not_reached_has_no_threshold(all_formats: Path, version: Path) -> None:
    content = json.loads((version / "model.json").read_text(encoding="utf-8"))
    assert content["confidence"]["samples"] == 70
    assert all(row["min_accuracy"] is None for row in content["confidence"]["thresholds"])
    assert "threshold" not in summary(version)
    assert (
        "no threshold is needed for an accuracy of 98%: without one, 100.00% of the answers are "
        "correct (test)"
    ) in summary(all_formats)


def test_generated_images_give_no_thresholds(tmp_path: Path, tiny: Any) -> None:
    version = export(tiny, tmp_path / "tiny", formats=("onnx",))
    content = json.loads((version / "model.json").read_text(encoding="utf-8"))
    assert content["confidence"] is None
