"""What needs a process of its own: another backend, and a CPU divided in two."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
    # Without conftest.py: what it imports needs TensorFlow.
    command = [sys.executable, "-m", "pytest", "--noconftest", "--quiet", "-p", "no:cacheprovider"]
    result = subprocess.run(
        [*command, *(str(HERE / file) for file in files)],
        env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
        cwd=HERE.parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    summary = result.stdout.strip().splitlines()[-1:]
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]
    assert "passed" in summary[0]
    assert "skipped" not in summary[0]  # a skipped test is not a passed one
