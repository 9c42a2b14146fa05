"""From a recipe to a run directory, and what can be read from one."""

import itertools
import json
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from keras_cnns.data import fingerprint, load_split
from keras_cnns.data.sources.folder.corrections import Corrections
from keras_cnns.recipes import OptimizerConfig, Recipe, format_recipe, load_recipe
from keras_cnns.report.records import read_records
from keras_cnns.runs.directory import begin, opened_for_training
from keras_cnns.runs.lock import locked
from keras_cnns.runs.names import CORRECTIONS, LABELS, README, SEARCH
from keras_cnns.training import Run, RunError, build_model, evaluate, open_run, predict, train
from keras_cnns.training.callbacks.stop_on_divergence import DivergedError
from keras_cnns.training.checkpoint import CheckpointError
from keras_cnns.training.model import compile_model


def test_a_run_directory_is_whole(finished_run: Run, quick_recipe: Recipe) -> None:
    path = finished_run.path
    assert {each.name for each in path.iterdir()} >= {
        "checkpoints",
        "config.toml",
        "model.keras",
        "labels.txt",
        "history.csv",
        "environment.json",
        "results.json",
    }
    assert not list(path.rglob("*partial*"))
    assert load_recipe(path / "config.toml") == quick_recipe
    assert finished_run.labels == tuple("0123456789")
    history = finished_run.history()
    assert [row["epoch"] for row in history] == [0, 1]
    assert all(math.isfinite(value) for row in history for value in row.values())
    environment = json.loads((path / "environment.json").read_text())
    assert environment["packages"]["keras"] == keras.__version__
    assert environment["data_fingerprint"] == fingerprint(quick_recipe.data)
    results = finished_run.results()
    assert results["training_seconds"] > 0
    assert results["best_epoch"] in (1, 2)
    assert results["test"] == evaluate(finished_run)


def test_the_model_takes_pixels_and_gives_probabilities(finished_run: Run) -> None:
    model = finished_run.load_model()
    data = finished_run.recipe.data
    images, _ = next(iter(load_split(data, data.test_split, batch_size=8)))
    probabilities = model.predict(images, verbose=0)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-5)
    optimizer = model.optimizer.get_config()
    assert optimizer["momentum"] == 0.9
    assert optimizer["weight_decay"] == 1e-4


def test_evaluate_counts_by_hand(finished_run: Run) -> None:
    results = evaluate(finished_run)
    data = finished_run.recipe.data
    images, labels = next(iter(load_split(data, data.test_split, batch_size=100)))
    predicted = finished_run.load_model().predict(images, verbose=0).argmax(axis=1)
    assert results["samples"] == 32
    assert results["accuracy"] == pytest.approx(np.mean(predicted == labels.numpy()))


def test_predict_reads_files_as_the_data_set_does(finished_run: Run, tmp_path: Path) -> None:
    data = finished_run.recipe.data
    images, _ = next(iter(load_split(data, data.test_split, batch_size=2)))
    paths = [tmp_path / f"{number}.png" for number in range(2)]
    for path, image in zip(paths, images.numpy(), strict=True):
        Image.fromarray(image[..., 0]).save(path)
    expected = finished_run.load_model().predict(images, verbose=0)
    answers = predict(finished_run, paths, top_k=3)
    for answer, probabilities in zip(answers, expected, strict=True):
        assert [label for label, _ in answer] == [str(k) for k in np.argsort(-probabilities)[:3]]
        np.testing.assert_allclose(
            [p for _, p in answer], np.sort(probabilities)[:-4:-1], rtol=1e-4
        )


def test_a_finished_run_says_so_and_stays(
    finished_run: Run, quick_recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished_run.path.rglob("*")}
    assert train(quick_recipe, finished_run.path) == finished_run
    assert f"{finished_run.path} is finished already" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in finished_run.path.rglob("*")} == before


def test_another_recipe_is_refused_by_its_difference(
    finished_run: Run, quick_recipe: Recipe
) -> None:
    other = replace(
        quick_recipe,
        optimizer=replace(quick_recipe.optimizer, learning_rate=0.5),
        training=replace(quick_recipe.training, seed=3),
    )
    with pytest.raises(RunError) as error:
        train(other, finished_run.path)
    message, rate = str(error.value), quick_recipe.optimizer.learning_rate
    assert f"with another recipe: optimizer.learning_rate is {rate} there and 0.5 here; " in message
    assert "training.seed is 0 there and 3 here" in message


def recipe_of_photos(
    recipe: Recipe, root: Path, splits: tuple[str, ...] = ("train", "validation", "test")
) -> Recipe:
    """Make a folder of two classes, with one picture of each in each split."""
    for level, (label, split) in enumerate(itertools.product(("cat", "dog"), splits)):
        place = root / split / label
        place.mkdir(parents=True)
        Image.new("L", (8, 8), 10 * level).save(place / "1.png")
    data = replace(
        recipe.data,
        name="folder",
        path=str(root),
        train_split="train",
        validation_split="validation",
        test_split="test",
    )
    return replace(recipe, data=data)


def test_photos_that_changed_are_refused_by_their_fingerprint(
    quick_recipe: Recipe, tmp_path: Path
) -> None:
    recipe, run = recipe_of_photos(quick_recipe, tmp_path / "photos"), tmp_path / "run"
    data = recipe.data
    run.mkdir()
    before = fingerprint(data)
    begin(run, recipe, ("cat", "dog"), before)
    Image.new("L", (8, 8), 90).save(tmp_path / "photos/train/cat/1.png")
    files = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(RunError) as error:
        train(recipe, run)
    assert f"fingerprint {before}, and have the fingerprint {fingerprint(data)} now" in str(
        error.value
    )
    assert {path.name: path.read_bytes() for path in run.iterdir()} == files


@pytest.mark.parametrize("name", [CORRECTIONS, LABELS, README])
def test_a_start_that_failed_can_be_repeated(
    quick_recipe: Recipe, name: str, tmp_path: Path
) -> None:
    corrections = Corrections("file,exclude\n", {}, frozenset())
    arguments = tmp_path, quick_recipe, tuple("0123456789"), "", corrections
    (tmp_path / name).mkdir()  # which cannot be replaced by a file
    with pytest.raises(OSError, match="Is a directory"):
        begin(*arguments)
    (tmp_path / name).rmdir()
    with opened_for_training(tmp_path, quick_recipe):
        begin(*arguments)
    assert (tmp_path / name).is_file()


def test_a_refused_resume_leaves_the_directory_as_it_was(
    finished_run: Run, quick_recipe: Recipe, tmp_path: Path
) -> None:
    recipe, run = recipe_of_photos(quick_recipe, tmp_path / "photos"), tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    begin(run, recipe, tuple("0123456789"), fingerprint(recipe.data))
    checkpoint = max((finished_run.path / "checkpoints").iterdir())
    damaged = checkpoint.read_bytes()[:1000], "is intact: remove all of them"
    for content, message in (damaged, (checkpoint.read_bytes(), "another model: weight logits")):
        (run / "checkpoints" / checkpoint.name).write_bytes(content)
        files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        with pytest.raises(CheckpointError, match=message):
            train(recipe, run)
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == files


def test_a_run_in_use_is_refused_by_its_process(finished_run: Run, quick_recipe: Recipe) -> None:
    with (
        locked(finished_run.path),
        pytest.raises(RunError, match=rf"is in use: process {os.getpid()} on \S+ trains in it"),
    ):
        train(quick_recipe, finished_run.path)


def test_a_directory_in_use_by_a_search_or_by_a_new_process(
    tmp_path: Path, quick_recipe: Recipe
) -> None:
    with locked(tmp_path):
        with pytest.raises(RunError, match="is in use: another process has begun to work in it"):
            train(quick_recipe, tmp_path)
        (tmp_path / SEARCH).write_text("{}")
        with pytest.raises(
            RunError, match="is in use: another process runs a hyperparameter search in it"
        ):
            train(quick_recipe, tmp_path)


def test_what_is_no_run_directory_is_left_alone(tmp_path: Path, quick_recipe: Recipe) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    for path in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(RunError, match="choose another directory"):
            train(quick_recipe, path)
    assert [each.name for each in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("split", ["train_split", "validation_split", "test_split"])
@pytest.mark.parametrize("name", ["nowhere", "test[:0]"])
def test_a_split_with_nothing_in_it_is_refused_before_the_first_step(
    split: str, name: str, quick_recipe: Recipe, tmp_path: Path
) -> None:
    change: dict[str, Any] = {split: name}
    bad = replace(quick_recipe, data=replace(quick_recipe.data, **change))
    with pytest.raises(
        ValueError, match=f"there is no split '{re.escape(name)}', or it has no images"
    ):
        train(bad, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_photos_too_few_for_a_test_split_are_refused_before_the_first_step(
    quick_recipe: Recipe, tmp_path: Path
) -> None:
    recipe = recipe_of_photos(quick_recipe, tmp_path / "photos", splits=("train", "validation"))
    with pytest.raises(ValueError, match="classes with too few images for all splits"):
        train(recipe, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.soak
def test_terminated_and_called_again_it_ends_as_if_never_stopped(
    finished_run: Run, quick_recipe: Recipe, tmp_path: Path
) -> None:
    """Also: the same seed gives the same history twice, in two processes."""
    recipe, run = tmp_path / "quick.toml", tmp_path / "run"
    recipe.write_text(format_recipe(quick_recipe))
    arguments = ["train", "--recipe", str(recipe), "--run", str(run), "--checkpoint-steps", "2"]
    command = [sys.executable, "-m", "keras_cnns.cli", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not (run / "checkpoints" / "step-00000002.checkpoint").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.terminate()
        _, err = process.communicate()
    assert process.returncode == 143
    assert "SIGTERM: the checkpoint of step" in err
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{run}: resuming at step" in again.stderr
    assert "test accuracy" in again.stdout

    assert open_run(run).history() == finished_run.history()
    models = [each.load_model() for each in (open_run(run), finished_run)]
    for one, other in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_rate_far_too_high_is_named_with_the_layer(quick_recipe: Recipe, tmp_path: Path) -> None:
    rate = OptimizerConfig(learning_rate=1e30)
    wild = replace(quick_recipe, optimizer=rate)
    with pytest.raises(DivergedError) as error:
        train(wild, tmp_path / "run")
    message = str(error.value)
    assert "at step 2 (epoch 1, step 2 of 3), with the learning rate 1e+30" in message
    assert "the first layer whose output is not finite is stage1_block1_conv1 (Conv2D)" in message
    assert "the checkpoint of step 0 is kept" in message


def test_a_directory_that_is_no_run_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no run directory"):
        open_run(tmp_path / "absent")
    missing = r"no config\.toml and no model\.keras and no labels\.txt and no results\.json"
    with pytest.raises(RunError, match=missing):
        open_run(tmp_path)


def test_labels_are_split_at_line_ends_alone(finished_run: Run, tmp_path: Path) -> None:
    for name in ("config.toml", "model.keras", "results.json"):
        (tmp_path / name).write_bytes((finished_run.path / name).read_bytes())
    (tmp_path / "labels.txt").write_text("one\u2028two\nthree\n", "utf-8")
    assert open_run(tmp_path).labels == ("one\u2028two", "three")
    assert read_records(tmp_path).run.labels == ("one\u2028two", "three")


def test_an_interrupted_run_is_not_a_finished_one(finished_run: Run, tmp_path: Path) -> None:
    for name in ("config.toml", "labels.txt", "model.keras"):
        (tmp_path / name).write_bytes((finished_run.path / name).read_bytes())
    with pytest.raises(RunError, match=r"is not a finished run: it has no results\.json"):
        open_run(tmp_path)


def test_a_damaged_model_is_a_clear_error(finished_run: Run, tmp_path: Path) -> None:
    for name in ("config.toml", "labels.txt", "results.json"):
        (tmp_path / name).write_bytes((finished_run.path / name).read_bytes())
    (tmp_path / "model.keras").write_bytes(b"no zip file")
    with pytest.raises(RunError, match=r"cannot load .*model\.keras"):
        open_run(tmp_path).load_model()


def test_auxiliary_losses_count_with_their_weight() -> None:
    recipe = load_recipe("digits-googlenet", ["training.aux_loss_weight=0.25"])
    model = build_model(recipe, classes=10)
    compile_model(model, recipe, steps_per_epoch=10)
    data = load_split(recipe.data, "train[:16]", batch_size=16)
    images, labels = next(iter(data))
    logs = model.evaluate(images, dict.fromkeys(model.output, labels), verbose=0, return_dict=True)
    weighted = logs["main_loss"] + 0.25 * (logs["aux1_loss"] + logs["aux2_loss"])
    assert logs["loss"] == pytest.approx(weighted, rel=1e-4)


def test_bfloat16_is_of_the_net_and_of_it_alone() -> None:
    recipe = load_recipe("digits-resnet20", ["training.precision=bfloat16"])
    model = build_model(recipe, classes=10)
    assert model.get_layer("stem_conv").compute_dtype == "bfloat16"
    assert model.get_layer("stem_conv").variable_dtype == "float32"
    assert model.output.dtype == "float32"
    assert keras.config.dtype_policy().name == "float32"
