"""Every public callback and schedule gives the same on torch and JAX."""

from pathlib import Path

import every_callback
import pytest


def test_on_torch_everything_is_as_on_jax(tmp_path: Path) -> None:
    """tests/keras_cnns compares JAX with TensorFlow."""
    on_torch, on_jax = (
        every_callback.results_of(backend, tmp_path / backend) for backend in ("torch", "jax")
    )
    assert set(on_torch["callbacks"]) == set(on_jax["callbacks"])
    for kind, results in on_jax.items():
        for name, expected in results.items():
            assert on_torch[kind][name] == pytest.approx(expected, rel=1e-3, abs=1e-5), name
