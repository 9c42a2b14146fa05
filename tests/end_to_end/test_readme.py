"""What the README shows, run as it stands."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")


def test_the_ten_lines_of_python_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CIFAR-10 cannot be downloaded here: images of its form stand for it."""
    (code,) = re.findall("```python\n(.*?)```", README, re.DOTALL)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    labels = generator.integers(0, 10, (16, 1))
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: ((images, labels), None))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "models" / "cifar10" / "1" / "model.json").is_file()
