"""One run and its export, made by the commands that a person types."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Once

QUICK = (
    "data.train_split=train[:128]",
    "data.validation_split=validation[:32]",
    "data.test_split=test[:64]",
    "training.epochs=2",
)


def keras_cnns(*arguments: str) -> str:
    """Run a command, demand that it succeeds and is quiet, and return what it printed."""
    process = subprocess.run(
        [sys.executable, "-m", "keras_cnns.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert "Traceback" not in process.stderr
    return process.stdout


@pytest.fixture(scope="session")
def run_directory(once: Once) -> Path:
    def fill(directory: Path) -> None:
        overrides = [argument for override in QUICK for argument in ("--set", override)]
        path = str(directory / "quick")
        printed = keras_cnns("train", "--recipe", "digits-resnet20", "--run", path, *overrides)
        assert "test accuracy" in printed

    return once("quick-run", fill) / "quick"


@pytest.fixture(scope="session")
def model_repository(once: Once, run_directory: Path) -> Path:
    def fill(directory: Path) -> None:
        printed = keras_cnns("export", str(run_directory), "--to", str(directory / "quick"))
        assert "compared with Keras on 32 images" in printed

    return once("quick-models", fill)
