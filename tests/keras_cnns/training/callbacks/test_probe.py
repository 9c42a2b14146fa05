"""The diagnostics in a process of its own, on another backend."""

from pathlib import Path

import pytest

from tests.own_process import run_tests

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
    summary = run_tests(*(f"{HERE}/{test}" for test in ON_EVERY_BACKEND), KERAS_BACKEND="jax")
    assert "passed" in summary
