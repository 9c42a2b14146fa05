import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from keras_cnns_export import export
from keras_cnns_export.contract import Metrics


@pytest.fixture(scope="module")
def reported(
    tmp_path_factory: pytest.TempPathFactory, tiny: Any, split: Any, labels: tuple[str, ...]
) -> Path:
    return export(
        tiny,
        tmp_path_factory.mktemp("models") / "reported",
        labels=labels,
        samples=("a<b", split),
        calibrate=True,
        report=True,
        kserve=True,
    )


def test_the_page_contains_every_number_and_fetches_nothing(reported: Path) -> None:
    page = (reported / "report.html").read_text(encoding="utf-8")
    content = json.loads((reported / "model.json").read_text(encoding="utf-8"))
    for name, parity in content["parity"]["formats"].items():
        assert name in page
        assert f"{parity['largest_difference']:.2e}" in page
        assert f"<b>{name}</b><br>index {parity['worst_sample']}<br>" in page
    assert f"{content['pixels']['within_one_level']:.4%}" in page
    assert f"{content['calibration']['expected_calibration_error_after']:.2%}" in page
    assert "16-bit PNG" in page
    assert "a&lt;b" in page  # a split's name is text, not markup
    assert "a<b" not in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert content["files"]["report.html"]["bytes"] == (reported / "report.html").stat().st_size


def test_the_accuracy_names_its_own_split(
    tmp_path: Path, tiny: Any, split: Any, labels: tuple[str, ...]
) -> None:
    version = export(
        tiny,
        tmp_path / "measured",
        labels=labels,
        samples=("validation[:70]", split),
        metrics=Metrics("test", 1234, 0.9321),
        formats=("onnx",),
        report=True,
    )
    page = (version / "report.html").read_text(encoding="utf-8")
    assert "Compared on 70 images of validation[:70]; " in page
    assert "accuracy is 93.21% on 1,234 images of test." in page


def test_the_worst_samples_are_shown(reported: Path, split: Any) -> None:
    page = (reported / "report.html").read_text(encoding="utf-8")
    content = json.loads((reported / "model.json").read_text(encoding="utf-8"))
    shown = re.findall(r"base64,([^\"]+)\"", page)
    # Two formats; and TensorFlow's pixels, Pillow's pixels, and their difference.
    assert len(shown) == 2 + 3
    index = content["parity"]["formats"]["onnx"]["worst_sample"]
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown[1]))))
    np.testing.assert_array_equal(image, split[0][index])
