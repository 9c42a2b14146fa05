"""Every public callback and schedule gives the same on TensorFlow and JAX."""

from pathlib import Path

import every_callback
import keras
import pytest

from keras_cnns import optimizers
from keras_cnns.training import callbacks


@pytest.mark.soak
def test_on_jax_everything_is_as_on_tensorflow(tmp_path: Path) -> None:
    on_tensorflow, on_jax = (
        every_callback.results_of(backend, tmp_path / backend) for backend in ("tensorflow", "jax")
    )
    public = set(callbacks.__all__) - every_callback.EXCEPTIONS
    assert set(on_jax["callbacks"]) == set(on_tensorflow["callbacks"]) == public
    for name in optimizers.__all__:
        if issubclass(getattr(optimizers, name), keras.optimizers.schedules.LearningRateSchedule):
            assert name in on_tensorflow["schedules"]
    for kind, results in on_tensorflow.items():
        for name, expected in results.items():
            assert on_jax[kind][name] == pytest.approx(expected, rel=1e-3, abs=1e-5), name
