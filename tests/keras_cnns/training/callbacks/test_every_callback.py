"""Every public callback and schedule gives the same on TensorFlow and JAX."""

import json
import os
import subprocess
import sys
from pathlib import Path

import every_callback
import keras
import pytest

from keras_cnns import optimizers
from keras_cnns.training import callbacks


def test_on_jax_everything_is_as_on_tensorflow(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, every_callback.__file__, str(tmp_path / "jax")],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-4000:]
    on_jax = json.loads(process.stdout.splitlines()[-1])
    here = every_callback.run_all(tmp_path / "tensorflow")
    public = set(callbacks.__all__) - every_callback.EXCEPTIONS
    assert set(on_jax["callbacks"]) == set(here["callbacks"]) == public
    for name in optimizers.__all__:
        if issubclass(getattr(optimizers, name), keras.optimizers.schedules.LearningRateSchedule):
            assert name in here["schedules"]
    for kind, results in here.items():
        for name, expected in results.items():
            assert on_jax[kind][name] == pytest.approx(expected, rel=1e-3, abs=1e-5), name
