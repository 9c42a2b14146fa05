"""Every public callback and schedule gives the same on torch and JAX."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CALLBACKS = Path(__file__).parents[1] / "keras_cnns" / "training" / "callbacks"


def run_all(backend: str, directory: Path) -> dict[str, dict[str, list[float]]]:
    process = subprocess.run(
        [sys.executable, str(CALLBACKS / "every_callback.py"), str(directory)],
        env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(CALLBACKS.parents[3])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-4000:]
    results: dict[str, dict[str, list[float]]] = json.loads(process.stdout.splitlines()[-1])
    return results


def test_on_torch_everything_is_as_on_jax(tmp_path: Path) -> None:
    """JAX in its turn is compared with TensorFlow, in tests/keras_cnns."""
    on_torch, on_jax = (run_all(name, tmp_path / name) for name in ("torch", "jax"))
    assert set(on_torch["callbacks"]) == set(on_jax["callbacks"])
    for kind, results in on_jax.items():
        for name, expected in results.items():
            assert on_torch[kind][name] == pytest.approx(expected, rel=1e-3, abs=1e-5), name
