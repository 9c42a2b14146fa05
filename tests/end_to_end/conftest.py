"""One run and its export, made by the commands that a person types."""

import subprocess
import sys
from pathlib import Path

import pytest

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
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "quick"
    overrides = [argument for override in QUICK for argument in ("--set", override)]
    printed = keras_cnns("train", "--recipe", "digits-resnet20", "--run", str(path), *overrides)
    assert "test accuracy" in printed
    return path


@pytest.fixture(scope="session")
def model_repository(tmp_path_factory: pytest.TempPathFactory, run_directory: Path) -> Path:
    path = tmp_path_factory.mktemp("models")
    printed = keras_cnns("export", str(run_directory), "--to", str(path / "quick"))
    assert "compared with Keras on 32 images" in printed
    return path
