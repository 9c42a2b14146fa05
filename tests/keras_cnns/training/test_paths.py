"""A run on a folder that was named by a relative path is used from any working directory."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_cnns.cli import app, run
from keras_cnns.recipes import Recipe, load_recipe
from keras_cnns.training import RunError, evaluate, open_run, train


def test_a_relative_folder_is_found_from_elsewhere(
    quick_recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    generator = np.random.default_rng(0)
    for split in ("train", "validation", "test"):
        for label in ("cat", "dog"):
            folder = tmp_path / "photos" / split / label
            folder.mkdir(parents=True)
            pixels = generator.integers(0, 256, (8, 8), np.uint8)
            Image.fromarray(pixels).save(folder / "1.png")
    data = replace(
        quick_recipe.data,
        name="folder",
        path="photos",
        train_split="train",
        validation_split="validation",
        test_split="test",
    )
    recipe = replace(quick_recipe, data=data, training=replace(quick_recipe.training, epochs=1))
    monkeypatch.chdir(tmp_path)
    finished = train(recipe, "run")
    assert finished.recipe.data.path == str(tmp_path / "photos")
    expected = evaluate(finished)
    train(recipe, "run")  # the same recipe, not another one

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert evaluate(open_run("../run")) == expected
    image = "../photos/test/cat/1.png"
    for command in (["predict", "../run", image], ["report", "../run"]):
        assert run(app, command, "keras-cnns") == 0
    train(load_recipe("../run/config.toml"), "../run")
    with pytest.raises(
        RunError, match=r"another recipe: data.path is '.*/photos' there and '.*/els"
    ):
        train(recipe, "../run")

    shutil.move(tmp_path / "photos", tmp_path / "moved")
    assert run(app, ["evaluate", "../run"], "keras-cnns") == 1
    message = f"there is no folder {tmp_path / 'photos'}; if it was moved, change data.path"
    assert message in capsys.readouterr().err
