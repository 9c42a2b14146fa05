import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from keras_cnns_export import cli


def test_a_run_becomes_a_version_and_the_figures_are_printed(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "models" / "digits"
    assert cli.main([str(finished_run), "--to", str(to)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines.pop(0) == f"exporting {finished_run} as saved_model, onnx"
    first = r"compared with Keras on \d{3} images \(test\), where its accuracy is [0-9.]+%:"
    assert re.fullmatch(first, lines[0])
    for name, line in zip(("saved_model", "onnx"), lines[1:3], strict=True):
        assert line.split()[0] == name
        for word in ("MB", "largest difference", "top-1 agreement 100.00%", "accuracy"):
            assert word in line
    assert lines[3:] == [f"published {to / '1'}"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["runs/first"], 2, "--to"),
        (["runs/first", "--to", "models/x", "--formats", "onx"], 2, "there are: saved_model, onnx"),
        (["runs/first", "--to", "models/.."], 2, "names the model"),
        (["runs/absent", "--to", "models/x"], 1, "no run directory runs/absent"),
    ],
)
def test_errors_are_for_a_person(
    arguments: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == status
    out, err = capsys.readouterr()
    assert "published" not in out
    assert message in " ".join(err.split())
    assert "Traceback" not in err


def test_help_shows_a_working_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "keras-cnns export runs/first --to models/digits" in shown


def test_it_is_a_command_of_keras_cnns() -> None:
    (entry_point,) = metadata.entry_points(group="keras_cnns.commands", name="export")
    assert entry_point.load() is cli.main


def test_help_and_bad_usage_do_not_wait_for_tensorflow() -> None:
    program = (
        "import sys; from keras_cnns_export import cli; cli.main(['--help']); "
        "cli.main(['run', '--to', 'x', '--formats', 'onx']); assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_tensorflows_notes_are_silenced_and_its_errors_are_not() -> None:
    program = (
        "from keras_cnns_export.cli import _load_tensorflow; _load_tensorflow(); "
        "import os; os.write(2, b'after')"
    )
    child = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert child.stderr == b"after"
