"""Callbacks of other packages: the example, installed as a user would, and packages that fail."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import tiny_model
from typer.testing import CliRunner

from keras_cnns.cli import app
from keras_cnns.recipes import Recipe
from keras_cnns.training import train
from keras_cnns.training.installed_callbacks import DISABLED, InstalledCallbackError, make_installed

EXAMPLE = Path(__file__).parents[3] / "examples" / "tracker"
NAME = "sqlite of keras-cnns-sqlite-tracker 0.1.0"
ENTRY = "(keras_cnns.callbacks: keras_cnns_sqlite_tracker:make_tracker)"
FAILING = """
import keras

class Failing(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        raise OSError("the tracking server does not answer")

def make(recipe, run):
    return Failing()

def refuse(recipe, run):
    raise ValueError("no account")

def make_text(recipe, run):
    return "a callback"
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of installed packages that has the example."""
    target = tmp_path_factory.mktemp("site")
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target")
    command = [sys.executable, "-m", "pip", "install", *options, str(target), str(EXAMPLE)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return target


@pytest.fixture
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_model.register(monkeypatch)


@pytest.mark.usefixtures("_tiny")
def test_the_example_records_every_epoch(
    site: Path,
    quick_recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(site)
    run = train(quick_recipe, tmp_path / "run")
    assert f"{run.path}: added the callback {NAME} {ENTRY}" in capsys.readouterr().err
    with closing(sqlite3.connect(tmp_path / "tracking.sqlite3")) as database:
        rows = database.execute("SELECT run, model, epoch, name, value FROM metrics").fetchall()
    assert {row[:2] for row in rows} == {(str(run.path), "resnet20")}
    recorded = {(epoch, name): value for *_, epoch, name, value in rows}
    for row in run.history():
        for name, value in row.items():
            if name != "epoch":
                assert recorded[row["epoch"] + 1, name] == pytest.approx(value, rel=1e-6)

    options = ["--recipe", "digits-resnet20", "--dry-run", "--set", "training.max_steps=3"]
    printed = CliRunner().invoke(app, ["train", *options])
    assert f"callback  {NAME} {ENTRY}" in printed.output
    for disabled in ("other, sqlite", "all"):
        monkeypatch.setenv(DISABLED, disabled)
        assert make_installed(quick_recipe, run.path) == []


@pytest.mark.usefixtures("_tiny")
@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("failing:make", "on_epoch_end raised OSError: the tracking server does not answer"),
        ("failing:refuse", "making it raised ValueError: no account"),
        ("failing:make_text", r"returned a str instead of a keras\.callbacks\.Callback"),
        ("failing_nowhere:make", "its import raised ModuleNotFoundError"),
    ],
)
def test_an_error_names_the_package_and_the_entry_point(
    value: str,
    problem: str,
    quick_recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    information = tmp_path / "site" / "failing_tracker-2.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Name: failing-tracker\nVersion: 2.0\n")
    (information / "entry_points.txt").write_text(f"[keras_cnns.callbacks]\nmine = {value}\n")
    (tmp_path / "site" / "failing.py").write_text(FAILING)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "failing", raising=False)
    with pytest.raises(InstalledCallbackError, match=problem) as error:
        train(quick_recipe, tmp_path / "run")
    message = str(error.value)
    assert f"mine of failing-tracker 2.0 (keras_cnns.callbacks: {value}) failed: " in message
    assert f"set {DISABLED}=mine to train without it" in message
