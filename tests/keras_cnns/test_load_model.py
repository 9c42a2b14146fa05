"""A saved model loads after one import, and importing the package is cheap."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_cnns
from keras_cnns.models import build
from keras_cnns.optimizers import LARS, ConstantWarmUp, OneCycle, WarmUp
from keras_cnns.training import Run

CHILD = """
import sys
import keras_cnns
assert "keras" not in sys.modules

import keras
try:
    keras.saving.load_model(sys.argv[1])
    raise SystemExit("it was loaded without an import")
except TypeError as error:
    assert "could not be deserialized" in str(error)
import keras_cnns.models
for path in sys.argv[1:]:
    model = keras.saving.load_model(path)
    assert type(model.optimizer).__module__.startswith("keras_cnns.")
"""


def test_one_import_registers_layers_optimizers_and_schedules(
    finished_run: Run, tmp_path: Path
) -> None:
    model = build("googlenet_tv", input_shape=(32, 32, 1), classes=2, aux_heads=True)
    schedule = ConstantWarmUp(WarmUp(OneCycle(0.1, 40), 10), 5, 0.01)
    model.compile(LARS(schedule), dict.fromkeys(model.output, "mse"))
    model.save(tmp_path / "model.keras")
    subprocess.run(
        [sys.executable, "-c", CHILD, str(finished_run.path / "model.keras"), "model.keras"],
        cwd=tmp_path,
        check=True,
    )
    loaded = keras_cnns.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.get_config() == model.optimizer.get_config()


def test_the_run_directory_says_how_its_model_is_loaded(
    finished_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished_run.path)
    text = (finished_run.path / "README.txt").read_text("utf-8")
    code = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    names: dict[str, keras.Model] = {}
    exec("\n".join(code), names)
    expected = finished_run.load_model().get_weights()
    for one, other in zip(names["model"].get_weights(), expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert "import keras_cnns.models" in text
    assert "keras_cnns.load_model(" in (finished_run.path / "report.html").read_text("utf-8")
