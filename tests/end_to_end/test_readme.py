"""The Python program that the README shows, and the diagnostics that docs/training.md shows."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_cnns.models import MODELS

ROOT = Path(__file__).parents[2]


def code_in(page: str, section: str) -> str:
    """The first Python block of a section."""
    text = (ROOT / page).read_text("utf-8").partition(f"## {section}\n")[2].partition("\n## ")[0]
    code, *_ = re.findall("```python\n(.*?)```", text, re.DOTALL)
    return str(code)


def test_the_program_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CIFAR-10 cannot be downloaded here: images of the same form replace it."""
    code = code_in("README.md", "I use Keras")
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    labels = generator.integers(0, 10, (16, 1))
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: ((images, labels), None))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "models" / "cifar10" / "1" / "model.json").is_file()


def test_the_diagnostics_run_on_any_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = code_in("docs/training.md", "Callbacks for any Keras model")
    exec(compile(code, "docs/training.md", "exec"), {})
    header = (tmp_path / "diagnostics.csv").read_text().partition("\n")[0]
    assert {"step", "gradient_ratio", "dead_relu", "update_ratio"} <= set(header.split(","))


def test_the_readme_is_short_and_counts_the_models() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) < 200
    assert f"There are {len(MODELS)} networks" in text
