"""What the README shows, run as it stands."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")


def code_in(section: str) -> str:
    text = README.partition(f"## {section}\n")[2].partition("\n## ")[0]
    (code,) = re.findall("```python\n(.*?)```", text, re.DOTALL)
    return str(code)


def test_the_ten_lines_of_python_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CIFAR-10 cannot be downloaded here: images of its form stand for it."""
    code = code_in("Ten lines of Python")
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    labels = generator.integers(0, 10, (16, 1))
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: ((images, labels), None))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "models" / "cifar10" / "1" / "model.json").is_file()


def test_the_diagnostics_run_on_any_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [keras.Input((3,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile("sgd", loss="mse")
    x = np.ones((64, 3))
    monkeypatch.chdir(tmp_path)
    code = code_in("Seeing why it learns, or does not")
    exec(compile(code, "README.md", "exec"), {"model": model, "x": x, "y": x[:, 0]})
    header = (tmp_path / "diagnostics.csv").read_text().partition("\n")[0]
    assert {"step", "gradient_ratio", "dead_relu", "update_ratio"} <= set(header.split(","))
