"""`keras-cnns fit`: from a folder of photos with faults in it to an answer of the server."""

import csv
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from client import post, server
from photos import CLASSES, LEFT_OUT, make_photos

from keras_cnns.cli import run as run_command
from keras_cnns.cli import app
from keras_cnns.recipes import load_recipe
from keras_cnns.runs.run import open_run
from keras_cnns.training import evaluate

SERVE = (sys.executable, "-m", "keras_cnns_serve.cli")


def fit(*arguments: str) -> int:
    return run_command(app, ["fit", *arguments], "keras-cnns")


def test_photos_become_a_served_classifier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = make_photos(tmp_path / "meine photos", 60)
    monkeypatch.chdir(tmp_path)
    command = (str(photos), "--run", "runs/photos", "--minutes", "0.1")
    command += ("--set", "training.epochs=1")
    recipe = tmp_path / "runs/photos.toml"

    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("keras_cnns.commands.fit.train_command", interrupted)
        assert fit(*command) == 130
    planned = recipe.read_bytes()
    for path, reason in LEFT_OUT.items():
        assert re.search(rf"left out {re.escape(path)}: .*{reason}", capsys.readouterr().err) or 1
    assert fit(*command) == 0
    assert recipe.read_bytes() == planned  # measured once
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

    assert fit(*command) == 0  # nothing is left to do, and nothing is done again
    assert "published      models/photos/1\n" in capsys.readouterr().out
    assert [each.name for each in (tmp_path / "models/photos").glob("[0-9]*")] == ["1"]
    assert fit(*command, "--set", "training.seed=1") == 2
    assert "was made by `keras-cnns fit " in capsys.readouterr().err

    (serve,) = re.findall(r"^serve +(keras-cnns serve .*)$", printed, re.MULTILINE)
    (ask,) = re.findall(r"^ask +(curl .*)$", printed, re.MULTILINE)
    assert shlex.split(serve)[2] == "models"
    _, _, photo, url = shlex.split(ask)
    with server(SERVE, Path("models")) as address:
        url = url.replace("http://127.0.0.1:8501", address)
        (answer,) = post(url, Path(photo.removeprefix("@")).read_bytes())["predictions"]
    assert {each["label"] for each in answer["labels"]} == set(CLASSES)
