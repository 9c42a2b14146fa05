"""`keras-cnns fit`: from a folder of photos with faults in it to an answer of the server."""

import csv
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from client import post, server
from photos import CLASSES, LEFT_OUT, make_photos

from keras_cnns.cli import app
from keras_cnns.cli import run as run_command
from keras_cnns.commands import fit as command_module
from keras_cnns.fit import plan
from keras_cnns.fit.measurement import Measurement
from keras_cnns.recipes import load_recipe
from keras_cnns.runs.run import open_run

SERVE = (sys.executable, "-m", "keras_cnns_serve.cli")
STAGES = (  # the path that appears when each stage is reached
    *("runs/photos.toml", "runs/photos/config.toml", "runs/photos/history.csv"),
    *("runs/photos/results.json", "runs/photos/export.json", "models/photos/1"),
)
call = command_module._call
FIT = (sys.executable, "-m", "keras_cnns.cli", "fit")


def fit(*arguments: str) -> int:
    return run_command(app, ["fit", *arguments], "keras-cnns")


def call_with_one_format(name: str, *arguments: str) -> None:
    """Export only ONNX, which saves seconds; the soak test exports all default formats."""
    call(name, *arguments, *(("--formats", "onnx") if name == "export" else ()))


def ask(printed: str) -> set[str]:
    """Type the two last lines of the output, on a free port; return the labels of the answer."""
    (serve,) = re.findall(r"^serve +(keras-cnns serve .*)$", printed, re.MULTILINE)
    (curl,) = re.findall(r"^ask +(curl .*)$", printed, re.MULTILINE)
    _, _, photo, url = shlex.split(curl)
    with server(SERVE, Path(shlex.split(serve)[2])) as address:
        url = url.replace("http://127.0.0.1:8501", address)
        (answer,) = post(url, Path(photo.removeprefix("@")).read_bytes())["predictions"]
    return {each["label"] for each in answer["labels"]}


def test_photos_become_a_served_classifier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = make_photos(tmp_path / "meine photos", 200)
    monkeypatch.chdir(tmp_path)
    # The measurement compiles the model, which the soak test does.
    measured = Measurement(0.02, 5, 0.1, 100, 0.4)
    monkeypatch.setattr(plan, "measure", lambda *_: measured)
    monkeypatch.setattr(plan, "has_bfloat16", lambda: False)
    monkeypatch.setattr(command_module, "_call", call_with_one_format)
    command = [str(photos), "--run", "runs/photos", "--minutes", "5"]
    command += ["--set", "training.epochs=1"]
    recipe = tmp_path / "runs/photos.toml"

    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(command_module, "train_command", interrupted)
        assert fit(*command) == 130
    planned, messages = recipe.read_bytes(), capsys.readouterr().err
    for path, reason in LEFT_OUT.items():
        assert re.search(rf"left out {re.escape(path)}: .*{reason}", messages)
    assert fit(*command) == 0
    assert recipe.read_bytes() == planned  # chosen once
    printed = capsys.readouterr().out

    run = open_run("runs/photos")
    assert run.recipe == load_recipe(recipe)
    assert (run.recipe.data.channels, run.recipe.data.image_size) == (1, 16)
    assert run.labels == tuple(sorted(CLASSES))
    with (run.path / "left_out.csv").open(newline="", encoding="utf-8") as file:
        listed = {row["file"]: row["reason"] for row in csv.DictReader(file)}
    assert listed.keys() == LEFT_OUT.keys()
    assert all(reason in listed[path] for path, reason in LEFT_OUT.items())
    assert (run.path / "report.html").is_file()
    assert re.search(r"test accuracy +[\d.]+% on \d+ images \(95 % interval", printed)
    assert "published      models/photos/1\n" in printed
    assert ask(printed) == set(CLASSES)

    assert fit(*command) == 0  # nothing is left to do, and nothing is done again
    assert "published      models/photos/1\n" in capsys.readouterr().out
    assert [each.name for each in Path("models/photos").glob("[0-9]*")] == ["1"]
    assert fit(*command, "--set", "training.seed=1") == 2
    assert "was made by `keras-cnns fit " in capsys.readouterr().err

    # Without the other distributions, it ends after the report.
    monkeypatch.setattr(command_module, "is_installed", lambda name: False)
    assert fit(*command) == 0
    printed = capsys.readouterr().out
    assert "pip install keras-cnns-export keras-cnns-serve" in printed
    assert "published" not in printed


@pytest.mark.soak
@pytest.mark.timeout(1500)
def test_a_killed_fit_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_photos(tmp_path / "photos", 600)
    monkeypatch.chdir(tmp_path)
    command = [*FIT, "photos", "--run", "runs/photos", "--minutes", "3"]
    command += ["--set", "training.epochs=12"]
    generator, recipes = random.Random(0), set()
    for path in map(Path, STAGES):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as own:
            while own.poll() is None and not path.exists():
                time.sleep(0.1)
            assert path.exists()
            time.sleep(generator.uniform(0, 3))
            own.send_signal(signal.SIGKILL)
        recipes.add(Path("runs/photos.toml").read_bytes())
    last = subprocess.run(command, capture_output=True, text=True, check=False)
    assert last.returncode == 0, last.stderr
    assert recipes == {Path("runs/photos.toml").read_bytes()}  # measured and chosen once
    assert [each.name for each in Path("models/photos").glob("[0-9]*")] == ["1"]
    assert ask(last.stdout) == set(CLASSES)

    whole = [sys.executable, "-m", "keras_cnns.cli", "train", "--recipe", "runs/photos.toml"]
    subprocess.run([*whole, "--run", "runs/whole"], check=True, capture_output=True)
    first, second = open_run("runs/photos"), open_run("runs/whole")
    for one, other in zip(
        first.load_model().get_weights(), second.load_model().get_weights(), strict=True
    ):
        assert (one == other).all()
    # The model distinguishes both directions, although every fifth file lies on its side: the
    # photos are upright.
    assert first.results()["test"]["accuracy"] > 0.9


@pytest.mark.soak
def test_a_dry_run_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_photos(tmp_path / "photos", 60)
    monkeypatch.chdir(tmp_path)
    command = [*FIT, "photos", "--run", "runs/photos", "--minutes", "2", "--dry-run"]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [each.name for each in Path().iterdir()] == ["photos"]
    Path("printed.toml").write_text(process.stdout, "utf-8")
    assert load_recipe("printed.toml").data.channels == 1
    words = " ".join(process.stdout.replace("\n# ", " ").split())
    assert "per epoch, as measured once" in words
