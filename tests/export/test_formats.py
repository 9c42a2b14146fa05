import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_cnns_export import ExportError, export
from keras_cnns_export.formats import FORMATS, in_order
from keras_cnns_export.options import Quantization

TOLERANCES = {"float32": 1e-5, "bfloat16": 0.05, "int8": 0.25}


@pytest.mark.parametrize("batch", [1, 3, 64])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_reads_back_and_answers_any_batch(
    name: str, batch: int, all_formats: Path, trained: Any
) -> None:
    if name not in json.loads((all_formats / "model.json").read_text())["formats"]:
        pytest.skip("this CPU has no bfloat16: test_openvino.py tests the error then")
    model, images, _ = trained
    images = images[:batch]
    given = FORMATS[name].load(all_formats)(images)
    assert list(given) == ["probabilities"]
    assert given["probabilities"].dtype == np.float32
    expected = model.predict(images.astype("float32"), verbose=0)
    tolerance = TOLERANCES[FORMATS[name].precision]
    np.testing.assert_allclose(given["probabilities"], expected, rtol=0, atol=tolerance)


def test_every_file_of_a_version_is_of_one_format_or_of_the_contract(all_formats: Path) -> None:
    patterns = [pattern for row in FORMATS.values() for pattern in row.files]
    known = {path for pattern in patterns for path in all_formats.glob(pattern)}
    known |= {all_formats / name for name in ("labels.txt", "golden.npy", "model.json")}
    assert known == {path for path in all_formats.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", [name for name, row in FORMATS.items() if row.packages])
def test_the_package_that_a_format_needs_is_named(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = FORMATS[name]
    assert in_order([name])[-1] == name
    monkeypatch.setitem(FORMATS, name, dataclasses.replace(row, packages=("not_installed",)))
    advice = rf"{name} needs not_installed: pip install 'keras-cnns-export\[{row.extra}\]'"
    with pytest.raises(ExportError, match=advice):
        in_order(["onnx", name])
    project = tomllib.loads((Path(__file__).parents[2] / "export/pyproject.toml").read_text())
    requirements = "".join(project["project"]["optional-dependencies"][row.extra])
    assert all(package.replace("_", "-") in requirements for package in row.packages)


@pytest.mark.parametrize("method", ["minimax", "entropy"])
def test_a_method_of_calibration_that_a_format_does_not_know_is_refused(
    method: str, tmp_path: Path, trained: Any
) -> None:
    name = "openvino_int8" if method == "entropy" else "onnx_int8"
    with pytest.raises(ExportError, match=f"unknown method of calibration '{method}'; there are:"):
        export(
            trained[0],
            tmp_path / "trained",
            labels=list("abcde"),
            formats=[name],
            quantization=Quantization(method=method),
        )
    assert list(tmp_path.iterdir()) == []


def test_what_a_version_says_of_its_formats(all_formats: Path) -> None:
    content = json.loads((all_formats / "model.json").read_text())
    for name, entry in content["formats"].items():
        row = FORMATS[name]
        assert (entry["engine"], entry["precision"]) == (row.engine, row.precision)
        assert (all_formats / entry["path"]).is_file()
        assert entry["milliseconds"] > 0
        assert (
            content["parity"]["formats"][name]["accuracy"] >= 0.99 * content["metrics"]["accuracy"]
        )
        if row.precision == "int8":
            assert entry["calibration"] == {"method": "minmax", "samples": 100}
