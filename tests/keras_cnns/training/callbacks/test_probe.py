"""The diagnostics in a process of its own, on another backend."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ON_EVERY_BACKEND = (
    "test_activation_statistics.py::test_mean_and_spread_are_those_computed_by_hand",
    "test_dead_relu.py::test_one_of_five_units_is_dead",
    "test_diagnostic.py::test_training_is_the_same_to_the_bit",
    "test_gradient_norm.py::test_norms_are_those_computed_by_hand",
    "test_learning_rate.py::test_of_a_constant_and_a_schedule",
    "test_lr_finder.py::test_every_loss_is_exactly_that_of_its_batch",
    "test_update_ratio.py::test_ratios_are_those_computed_by_hand",
)


@pytest.mark.soak
def test_on_jax() -> None:
    command = [sys.executable, "-m", "pytest", "--noconftest", "--quiet", "-p", "no:cacheprovider"]
    result = subprocess.run(
        [*command, *(str(HERE / file) for file in ON_EVERY_BACKEND)],
        env={**os.environ, "KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3"},
        cwd=HERE.parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]
    assert "passed" in result.stdout.strip().splitlines()[-1]
