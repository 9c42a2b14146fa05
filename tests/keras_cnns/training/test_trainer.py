"""From a recipe to a run directory, and what can be read from one."""

import json
import math
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from keras_cnns.data import load_split
from keras_cnns.recipes import Recipe, load_recipe
from keras_cnns.training import Run, RunError, build_model, evaluate, open_run, predict, train
from keras_cnns.training.callbacks import SaveBest
from keras_cnns.training.compiling import compile_model, make_schedule


def test_a_run_directory_is_whole(finished_run: Run, quick_recipe: Recipe) -> None:
    path = finished_run.path
    assert {each.name for each in path.iterdir()} == {
        "config.toml",
        "model.keras",
        "labels.txt",
        "history.csv",
        "environment.json",
        "results.json",
    }
    assert load_recipe(path / "config.toml") == quick_recipe
    assert finished_run.labels == tuple("0123456789")
    history = finished_run.history()
    assert [row["epoch"] for row in history] == [0, 1]
    assert all(math.isfinite(value) for row in history for value in row.values())
    environment = json.loads((path / "environment.json").read_text())
    assert environment["packages"]["keras"] == keras.__version__
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


def test_a_run_is_never_overwritten(finished_run: Run, quick_recipe: Recipe) -> None:
    before = (finished_run.path / "model.keras").read_bytes()
    with pytest.raises(FileExistsError, match="choose another run directory"):
        train(quick_recipe, finished_run.path)
    assert (finished_run.path / "model.keras").read_bytes() == before


def test_a_directory_that_is_no_run_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no run directory"):
        open_run(tmp_path / "absent")
    missing = r"no config\.toml and no model\.keras and no labels\.txt and no results\.json"
    with pytest.raises(RunError, match=missing):
        open_run(tmp_path)


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


def test_the_cosine_schedule_warms_up_and_ends_at_zero() -> None:
    recipe = load_recipe(
        "digits-resnet20",
        ["training.epochs=10", "optimizer.warmup_epochs=2", "optimizer.learning_rate=0.1"],
    )
    rate = make_schedule(recipe, steps_per_epoch=5)
    assert float(rate(0)) == 0
    assert float(rate(5)) == pytest.approx(0.05)
    assert float(rate(10)) == pytest.approx(0.1)
    assert float(rate(30)) == pytest.approx(0.05)
    assert float(rate(50)) == pytest.approx(0.0, abs=1e-8)
    constant = replace(recipe, optimizer=replace(recipe.optimizer, schedule="constant"))
    assert make_schedule(constant, 5) == 0.1


def test_save_best_keeps_the_best_and_nothing_half_written(tmp_path: Path) -> None:
    inputs = keras.Input((1,))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    path = tmp_path / "model.keras"
    callback = SaveBest(path, "val_accuracy")
    callback.set_model(model)
    kept = []
    for epoch, accuracy in enumerate([0.5, 0.4, 0.7, 0.7, 0.6]):
        model.set_weights([np.full((1, 1), epoch), np.zeros(1)])
        callback.on_epoch_end(epoch, {"val_accuracy": accuracy})
        kept.append(int(keras.saving.load_model(path).get_weights()[0][0, 0]))
    assert kept == [0, 0, 2, 3, 3]
    assert callback.best_epoch == 4

    model.set_weights([np.full((1, 1), 9.0), np.zeros(1)])
    (tmp_path / "model.partial.keras").mkdir()  # the next save fails
    with pytest.raises(OSError, match=r"model\.partial\.keras"):
        callback.on_epoch_end(5, {"val_accuracy": 0.9})
    (tmp_path / "model.partial.keras").rmdir()
    assert keras.saving.load_model(path).get_weights()[0][0, 0] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]
    with pytest.raises(ValueError, match="no 'val_accuracy' among the logs: loss"):
        callback.on_epoch_end(5, {"loss": 1.0})
