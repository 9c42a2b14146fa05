"""Folds: every image is predicted once, by a model that has not seen it."""

import csv
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import planted
import pytest
import tensorflow as tf

from keras_cnns.data import Splits
from keras_cnns.data.sources import folds as fold_source
from keras_cnns.data.sources.base import Contents, IndexedImages
from keras_cnns.data.sources.folds import assign_folds
from keras_cnns.recipes import RecipeError, load_recipe
from keras_cnns.runs.evaluation import evaluate, predict_split
from keras_cnns.training import RunError, open_run
from keras_cnns.training.callbacks import StepTime
from keras_cnns.training.folds import (
    collect_out_of_fold,
    fold_path,
    read_out_of_fold,
    train_folds,
    with_fold,
)


def test_a_fold_is_an_ordinary_run_whose_validation_split_is_its_part(
    trained_folds: Path, planted_folder: Path
) -> None:
    found = read_out_of_fold(trained_folds)
    for fold in range(1, planted.FOLDS + 1):
        run = open_run(fold_path(trained_folds, fold))
        assert (run.recipe.data.fold, run.recipe.data.folds) == (fold, planted.FOLDS)
        splits = Splits(run.recipe.data)
        held_out, training, test = (
            splits.open(name, batch_size=8) for name in ("validation", "train", "test")
        )
        files = {
            name: [str(split.path_of(i)) for i in range(split.num_examples) if split.path_of]
            for name, split in (("held out", held_out), ("train", training), ("test", test))
        }
        assert files["held out"] == found.files[found.folds == fold].tolist()
        assert files["train"] == found.files[(found.folds != fold) & (found.folds > 0)].tolist()
        assert files["test"] == found.files[found.folds == 0].tolist()
        evaluated = evaluate(run, "validation")
        assert evaluated["samples"] == held_out.num_examples
    images = 3 * planted.EACH + len(planted.WRONG) + 2
    assert len(set(found.files.tolist())) == len(found.files) == images


def test_folds_have_equal_parts_of_each_class_and_whole_groups(trained_folds: Path) -> None:
    found = read_out_of_fold(trained_folds)
    divided = found.folds > 0
    for label in range(3):
        counts = Counter(found.folds[divided & (found.labels == label)].tolist())
        assert max(counts.values()) - min(counts.values()) <= 2  # the size of the largest group
    group = [f"{planted.PLAIN}/{name}" for name in ("00.png", planted.COPY, planted.NEAR)]
    fold_of = {
        "/".join(Path(file).parts[-2:]): fold
        for file, fold in zip(found.files.tolist(), found.folds.tolist(), strict=True)
    }
    assert len({fold_of[name] for name in group}) == 1


def test_probabilities_are_those_of_the_models_that_have_not_seen_the_image(
    trained_folds: Path,
) -> None:
    found = read_out_of_fold(trained_folds)
    of_test = []
    for fold in range(1, planted.FOLDS + 1):
        run = open_run(fold_path(trained_folds, fold))
        predictions = predict_split(run, "validation")
        members = found.folds == fold
        rows = found.probabilities[members]
        np.testing.assert_array_equal(found.labels[members], predictions.labels)
        np.testing.assert_allclose(rows.max(axis=1), predictions.confidences, rtol=1e-6)
        of_test.append(predict_split(run, "test").label_probabilities)
    is_test = found.folds == 0
    rows = found.probabilities[is_test]
    expected = np.mean(of_test, axis=0)
    np.testing.assert_allclose(rows[np.arange(len(rows)), found.labels[is_test]], expected, 1e-5)


def test_the_numbers_of_the_folds_are_written(trained_folds: Path) -> None:
    found = read_out_of_fold(trained_folds)
    written = json.loads((trained_folds / "folds.json").read_text())
    is_hit = found.probabilities.argmax(axis=1) == found.labels
    accuracies = [np.mean(is_hit[found.folds == k + 1]) for k in range(planted.FOLDS)]
    assert [each["accuracy"] for each in written["runs"]] == pytest.approx(accuracies)
    assert written["accuracy_mean"] == pytest.approx(np.mean(accuracies))
    assert written["accuracy_std"] == pytest.approx(np.std(accuracies, ddof=1))
    with (trained_folds / "out_of_fold.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["fold"]) for row in rows] == found.folds.tolist()
    assert {row["label"] for row in rows} == {f"'{planted.FORMULA}", planted.MARKUP, planted.PLAIN}


def test_a_finished_fold_is_not_trained_again_and_a_stopped_one_resumes_exactly(
    trained_folds: Path,
    planted_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    planted.register(monkeypatch)
    recipe = planted.make_recipe(planted_folder)
    (tmp_path / "fold-1").symlink_to(fold_path(trained_folds, 1))
    write_times = StepTime.on_epoch_end

    def stop(self: StepTime, epoch: int, logs: object = None) -> None:
        if epoch == 1:
            raise KeyboardInterrupt
        write_times(self, epoch, None)

    with monkeypatch.context() as patch:
        patch.setattr(StepTime, "on_epoch_end", stop)
        with pytest.raises(KeyboardInterrupt):
            list(train_folds(recipe, tmp_path, planted.FOLDS, checkpoint_steps=10))
    output = capfd.readouterr()
    assert "fold 1/2 is finished already" in output.err
    assert "fold 2/2, epoch 1/3" in output.out
    assert "fold 1/2, epoch" not in output.out
    list(train_folds(recipe, tmp_path, planted.FOLDS))
    assert "resuming at step" in capfd.readouterr().err
    weights = [
        open_run(fold_path(directory, 2)).load_model().get_weights()
        for directory in (tmp_path, trained_folds)
    ]
    for resumed, uninterrupted in zip(*weights, strict=True):
        np.testing.assert_array_equal(resumed, uninterrupted)


def test_other_directories_data_and_recipes_are_refused(
    trained_folds: Path, planted_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted.register(monkeypatch)
    recipe = planted.make_recipe(planted_folder)
    with pytest.raises(RunError, match="is a run, not a directory of folds"):
        list(train_folds(recipe, fold_path(trained_folds, 1), 2))
    with pytest.raises(ValueError, match=r"the recipe trains fold 1 of 3; remove data\.fold"):
        list(train_folds(with_fold(recipe, 1, 3), tmp_path / "new", 2))
    with pytest.raises(RecipeError, match=r"^data.*folds"):
        list(train_folds(load_recipe("imagenet-resnet50"), tmp_path / "new", 2))
    with pytest.raises(RunError, match=r"data.folds is 2 there and 3 here"):
        list(train_folds(recipe, trained_folds, 3))
    changes = tmp_path / "corrections.csv"
    changes.write_text(f"file,exclude\n{planted.PLAIN}/05.png,yes\n")
    corrected = planted.make_recipe(planted_folder, corrections=str(changes))
    with pytest.raises(RunError, match=r"data.corrections is '' there"):
        list(train_folds(corrected, trained_folds, 2))
    with pytest.raises(RunError, match=r"is not a finished run|there is no run directory"):
        collect_out_of_fold(trained_folds, 3)
    assert not (tmp_path / "new").exists()


def test_data_that_have_changed_since_a_fold_are_refused(
    trained_folds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted.register(monkeypatch)
    folder = planted.fill(tmp_path / "photos")
    directory = tmp_path / "folds"
    recipe = planted.make_recipe(folder)
    recipe = replace(recipe, training=replace(recipe.training, epochs=1, max_steps=2))
    next(train_folds(recipe, directory, 2))
    (folder / planted.PLAIN / "05.png").unlink()
    with pytest.raises(RunError, match="was begun with other data"):
        list(train_folds(recipe, directory, 2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": 5}, "folds must be at least 2 and fold from 1 to folds, or both must be 0"),
        ({"folds": 1, "fold": 1}, "folds is 1 and fold is 1"),
        ({"folds": 3, "fold": 4}, "folds is 3 and fold is 4"),
        (
            {"folds": 3, "fold": 1, "validation_split": "test"},
            "from train_split and from test_split; test_split and validation_split are both 'test'",
        ),
        (
            {"folds": 3, "fold": 1, "validation_split": "train"},
            "train_split and validation_split are both 'train'",
        ),
        ({"multi_label": True}, "exactly one class, .*; classification with several labels"),
    ],
)
def test_wrong_keys_are_explained(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        planted.make_recipe(Path("photos"), **changes)


def test_groups_and_classes_are_divided_evenly() -> None:
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 4, 400)
    keys = [f"{i % 150}" for i in range(400)]  # up to three images in a group, of any classes
    folds = assign_folds(Contents(tuple(keys), labels), 5)
    assert set(folds.tolist()) == {1, 2, 3, 4, 5}
    by_key: dict[str, set[int]] = {}
    for key, fold in zip(keys, folds.tolist(), strict=True):
        by_key.setdefault(key, set()).add(fold)
    assert all(len(found) == 1 for found in by_key.values())
    assert np.ptp(np.bincount(folds)[1:]) <= 12
    alone = assign_folds(Contents(tuple(map(str, range(400))), labels), 5)
    for label in range(4):
        counts = np.bincount(alone[labels == label], minlength=6)[1:]
        assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(
            ("shapes-resnet18", "data.num_examples=40", "data.image_size=32"),
            marks=pytest.mark.soak,
        ),
        ("digits-resnet20", "data.train_split=train[:60]", "data.validation_split=validation[:30]"),
    ],
)
def test_built_in_sources_are_divided_too(recipe: tuple[str, ...]) -> None:
    name, *changes = recipe
    data = load_recipe(name, [*changes, "data.folds=3", "data.fold=2"]).data
    splits = Splits(data)
    pool = splits.pool
    held_out = splits.open(data.validation_split, batch_size=64)
    training = splits.open(data.train_split, batch_size=64, seed=0)
    assert held_out.num_examples == np.sum(pool.folds == 2)
    assert held_out.num_examples + training.num_examples == len(pool.folds)
    assert pool.path_of is None
    whole = [
        image
        for part in (data.train_split, data.validation_split)
        for images, _ in Splits(replace(data, fold=0, folds=0)).open(part, batch_size=64)
        for image in np.asarray(images)
    ]
    pixels = np.concatenate([np.asarray(images) for images, _ in held_out])
    expected = [image for image, fold in zip(whole, pool.folds, strict=True) if fold == 2]
    np.testing.assert_array_equal(pixels, np.stack(expected))


def test_copies_among_images_that_are_no_files_are_found() -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (6, 20, 20, 1)).astype(np.uint8)
    pixels[4] = pixels[1]
    pixels[5] = np.minimum(pixels[2].astype(int) + 1, 255)
    with tf.device("CPU"):
        images, labels = tf.constant(pixels), tf.constant([0, 1, 0, 1, 1, 0], tf.int64)
    source = IndexedImages(6, lambda index: (images[index], labels[index]))
    contents = fold_source._read_contents(source)
    assert contents.keys[1] == contents.keys[4]
    assert contents.keys[2] == contents.keys[5]
    assert len(set(contents.keys)) == 4
    assert contents.labels.tolist() == [0, 1, 0, 1, 1, 0]


def test_an_empty_fold_is_refused_before_the_first_training(tmp_path: Path) -> None:
    data = planted.make_recipe(planted.fill(tmp_path / "photos"), folds=100, fold=1).data
    with pytest.raises(ValueError, match=r"too few training .* images for 100 folds: only \d+ of"):
        Splits(data).open("validation", batch_size=2)


def test_predictions_are_those_of_the_present_models(trained_folds: Path, tmp_path: Path) -> None:
    folds = shutil.copytree(trained_folds, tmp_path / "folds")
    before = (folds / "out_of_fold.npz").stat().st_mtime_ns
    collect_out_of_fold(folds, planted.FOLDS)
    assert (folds / "out_of_fold.npz").stat().st_mtime_ns == before
    results = folds / "fold-1" / "results.json"  # as if the fold had been trained again
    results.write_text(json.dumps(json.loads(results.read_text()) | {"training_seconds": 1.5}))
    collect_out_of_fold(folds, planted.FOLDS)
    assert (folds / "out_of_fold.npz").stat().st_mtime_ns > before


def test_a_class_with_one_image_cannot_be_divided(tmp_path: Path) -> None:
    folder = planted.fill(tmp_path / "photos")
    for path in sorted((folder / planted.PLAIN).iterdir()):
        if path.name not in ("00.png", planted.COPY, planted.NEAR):
            path.unlink()
    data = planted.make_recipe(folder, folds=2, fold=1).data
    message = f"too few training and validation images of {planted.PLAIN}"
    with pytest.raises(ValueError, match=message):
        Splits(data).open("validation", batch_size=2)
