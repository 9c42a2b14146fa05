"""Tests that need a process of their own, such as another backend or a divided CPU."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_tests(*tests: Path | str, **environment: str) -> str:
    """Run tests in a new process, demand that they succeed, and return the line of the result.

    conftest.py is not read, because its imports need TensorFlow.
    """
    command = [sys.executable, "-m", "pytest", "--noconftest", "--quiet", "-p", "no:cacheprovider"]
    result = subprocess.run(
        [*command, *map(str, tests)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]
    return result.stdout.strip().splitlines()[-1]
