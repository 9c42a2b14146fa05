"""The models that are served, and the table of results at the end.

The environment shortens a try: with SOAK_SECONDS=2 an attack takes 2 seconds instead of 10, and
every other duration and number is shortened in proportion; SOAK_MODEL names an exported version of
the digits, such as models/digits-resnet20/1, to serve instead of one that is trained here.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.serve.conftest import write_version

from .server import ROOT

RESULTS = ROOT / "build" / "soak.json"
TRAINING = (
    "data.train_split=train[:128]",
    "data.validation_split=validation[:32]",
    "data.test_split=test[:64]",
    "training.epochs=2",
)
# The columns of each attack: the median wait, calm and attacked, and the longest; then megabytes.
COLUMNS = ("http_ms", "grpc_ms", "memory_mb")
HEADER = "".join(
    f"{name:>9}" for name in (*("calm", "attacked", "longest") * 2, "MB", "peak", "after")
)
Row = dict[str, Any]
ROWS = pytest.StashKey[list[Row]]()


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version of an exported ResNet-20, after two epochs on the digits."""
    if given := os.environ.get("SOAK_MODEL"):
        return Path(given)
    root = tmp_path_factory.mktemp("digits")
    run, to = str(root / "run"), str(root / "digits")
    overrides = [argument for override in TRAINING for argument in ("--set", override)]
    _keras_cnns("train", "--recipe", "digits-resnet20", "--run", run, *overrides)
    _keras_cnns("export", run, "--to", to)
    return root / "digits" / "1"


def _keras_cnns(*arguments: str) -> None:
    command = [sys.executable, "-m", "keras_cnns.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def models(digits: Path, tmp_path: Path) -> Path:
    """A repository of the test's own: digits/1, a copy of it, and grey/1, with known answers."""
    root = tmp_path / "models"
    shutil.copytree(digits, root / "digits" / "1")
    shutil.copytree(digits, root / "spare" / "1")
    write_version(root / "grey" / "1")
    return root


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Row:
    """The row of this test in the table; the test writes what it measures into it."""
    row: Row = {"case": request.node.name.removeprefix("test_")}
    request.config.stash.setdefault(ROWS, []).append(row)
    return row


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return round(value, 3) if isinstance(value, float) else value


def _line(row: Row) -> str:
    """Return what a row has measured: an attack in columns, other numbers by their names."""
    attacked = [key for key in COLUMNS if key in row]
    columns = "".join(f"{value:>9,}" for key in attacked for value in row[key])
    others = {
        key: _rounded(value)
        for key, value in row.items()
        if key not in ("case", "does", "passed", "problems", *attacked)
    }
    return columns + "".join(f"  {key}: {value}" for key, value in others.items())


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print a line for each row, and write all of them to build/soak.json."""
    if not (rows := config.stash.get(ROWS, [])):
        return
    failed = {
        report.nodeid.rpartition("::")[2]
        for outcome in ("failed", "error")
        for report in terminalreporter.getreports(outcome)
    }
    terminalreporter.section("soak")
    terminalreporter.line(f"{'':<45}{HEADER}")
    for row in rows:
        row["passed"] = f"test_{row['case']}" not in failed
        terminalreporter.line(
            f"{'' if row['passed'] else 'FAILED':<7}{row['case']:<38}{_line(row)}"
        )
        for problem in row.get("problems", ()):
            terminalreporter.line(f"{'':9}{problem}")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"rows": rows}, indent=2) + "\n", "utf-8")
    terminalreporter.line(f"written to {RESULTS.relative_to(ROOT)}")
