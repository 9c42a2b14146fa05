import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from keras_cnns_export import cli


def test_a_run_becomes_a_version_and_its_parity_is_printed(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "models" / "digits"
    assert cli.main([str(finished_run), "--to", str(to)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines.pop(0) == f"exporting {finished_run} as saved_model, onnx"
    assert re.fullmatch(r"compared with Keras on \d{3} images \(validation\):", lines[0])
    for name, line in zip(("saved_model", "onnx"), lines[1:3], strict=True):
        assert line.split()[0] == name
        for word in ("MB", "largest difference", "top-1 agreement 100.00%", "accuracy"):
            assert word in line
    assert lines[3] == "accuracy 25.00% on 364 images (test)"
    assert lines[4:] == [f"published {to / '1'}"]


def test_every_option_at_once(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "models" / "digits"
    options = ["--outputs", "probabilities,top_k,cam", "--calibrate", "--report", "--kserve"]
    assert cli.main([str(finished_run), "--to", str(to), "--formats", "onnx", *options]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"temperature [0-9.]+: expected calibration error [0-9.]+% before", shown)
    content = json.loads((to / "1" / "model.json").read_text())
    names = [output["name"] for output in content["outputs"]]
    assert names == ["probabilities", "top_k_indices", "top_k_probabilities", "cam"]
    assert content["calibration"]["split"] == "validation"
    assert sorted(path.name for path in to.iterdir()) == [
        "1",
        "config.pbtxt",
        "inference-service.yaml",
        "labels.txt",
    ]
    assert (to / "1" / "report.html").exists()


def test_a_keras_file_is_published_with_its_labels(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "models" / "digits"
    written = (finished_run / "labels.txt").read_text()
    labels = tmp_path / "labels-windows.txt"
    labels.write_bytes(b"\xef\xbb\xbf" + written.replace("\n", "\r\n").encode())
    file = str(finished_run / "model.keras")
    given = [file, "--to", str(to), "--formats", "onnx", "--labels", str(labels)]
    assert cli.main(given) == 0
    assert "compared with Keras on 256 images (generated)" in capsys.readouterr().out
    assert (to / "1" / "labels.txt").read_bytes() == written.encode()
    labels.write_text(written.replace("3\n", "2\n"))
    assert cli.main(given) == 2
    assert (
        "labels-windows.txt: line 4 repeats the label 'digit 2' of line 3"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["runs/first"], 2, "--to"),
        (["runs/first", "--to", "models/x", "--formats", "onx"], 2, "there are: saved_model, onnx"),
        (["runs/first", "--to", "models/.."], 2, "names the model"),
        (["runs/absent", "--to", "models/x"], 1, "no run directory runs/absent"),
        (["x.keras", "--to", "models/x"], 1, "there is no file x.keras"),
        (["runs/first", "--to", "models/x", "--labels", "l"], 2, "runs/first is no .keras file"),
        (["runs/first", "--to", "models/x", "--outputs", "heat"], 2, "unknown output 'heat'"),
        (["runs/first", "--to", "models/x", "--int8-method", "best"], 2, "there are: minmax"),
        (
            ["x.keras", "--to", "models/x", "--labels", "absent.txt"],
            2,
            "cannot read absent.txt: No such file or directory",
        ),
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
