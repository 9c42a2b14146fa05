"""What needs a process of its own: another backend, and a CPU divided in two."""

from pathlib import Path

import pytest

from tests.own_process import run_tests

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    ("backend", "files"),
    [
        ("jax", ("test_momentum.py", "test_contract.py")),
        pytest.param("jax", ("test_lars.py", "test_state.py"), marks=pytest.mark.soak),
        pytest.param("tensorflow", ("mirrored.py",), marks=pytest.mark.soak),
    ],
)
def test_in_a_process_of_its_own(backend: str, files: tuple[str, ...]) -> None:
    summary = run_tests(*(HERE / file for file in files), KERAS_BACKEND=backend)
    assert "passed" in summary
    assert "skipped" not in summary  # a skipped test is not a passed one
