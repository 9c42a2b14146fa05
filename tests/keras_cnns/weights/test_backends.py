"""The same weights give the same answer on TensorFlow and on JAX; `tests/parity` has torch."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import backend_answers
import numpy as np
import pytest

TOLERANCE = 1e-5  # of the largest logit


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
def test_jax_answers_as_tensorflow(tmp_path: Path) -> None:
    file = tmp_path / "answers.npz"
    root = Path(__file__).parents[3]
    subprocess.run(
        [sys.executable, backend_answers.__file__, str(file)],
        env={**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(root)},
        check=True,
    )
    with np.load(file) as found:
        for name, expected in backend_answers.answer_all().items():
            np.testing.assert_allclose(
                found[name], expected, rtol=0, atol=TOLERANCE * np.abs(expected).max(), err_msg=name
            )
