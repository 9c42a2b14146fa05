"""Signals to the process itself, which pytest's own workers and those before us listen to too."""

import os
import subprocess
import sys
from pathlib import Path


def test_in_a_process_of_its_own() -> None:
    command = [sys.executable, "-m", "pytest", "--noconftest", "--quiet", "-p", "no:cacheprovider"]
    cases = Path(__file__).with_name("signals.py")
    result = subprocess.run(
        [*command, str(cases)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]
    assert "5 passed" in result.stdout
