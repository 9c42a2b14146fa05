"""A finished run is evaluated on its recipe's splits, and on no image that it was trained on."""

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_cnns.cli import app, run
from keras_cnns.data import open_split
from keras_cnns.recipes import load_recipe
from keras_cnns.report import write_report
from keras_cnns.runs.evaluation import open_run_split
from keras_cnns.training import Run, RunError, evaluate, find_split, predict
from keras_cnns.training.model import build_model, compile_model, for_outputs

SPLITS = (
    "data.train_split=train[:80%]",
    "data.validation_split=train[80%:]",
    "data.test_split=validation",
)
DATA = load_recipe("digits-resnet20", SPLITS).data
# for each requested split: the split of the data set
FOUND = {
    "train": "train[:80%]",
    "validation": "train[80%:]",  # not the data set's split of this name
    "test": "validation",
    "train[:80%]": "train[:80%]",
    "train[80%:]": "train[80%:]",
}


@pytest.mark.parametrize(("split", "found"), FOUND.items())
def test_a_name_is_one_of_the_recipes_splits(split: str, found: str) -> None:
    assert find_split(DATA, split) == found


@pytest.mark.parametrize("split", ["dev", "train[:90%]", "train[", ""])
def test_another_split_is_refused_by_a_list_of_the_recipes(split: str) -> None:
    listed = r"are train \(train\[:80%\]\), validation \(train\[80%:\]\), test \(validation\)"
    with pytest.raises(ValueError, match=f"has no split .*; its splits {listed}"):
        find_split(DATA, split)


def test_the_command_refuses_another_split_as_wrong_usage(
    finished_run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(finished_run.path)
    assert run(app, ["evaluate", path, "--split", "validation"], "keras-cnns") == 0
    assert "validation[:32]: accuracy " in capsys.readouterr().out
    # Images 32 and after were neither trained on nor validated; still, they are no part of the run.
    assert run(app, ["evaluate", path, "--split", "train[:32]"], "keras-cnns") == 2
    assert "its splits are train (train[:96]), validation (" in capsys.readouterr().err


def test_data_with_other_classes_are_refused(tmp_path: Path) -> None:
    """The index of each class would otherwise be that of another class."""
    for label in ("ant", "bear", "cat"):
        (tmp_path / label).mkdir()
        for number in range(12):
            pixels = np.random.default_rng([number, ord(label[0])]).integers(0, 256, (8, 8, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / label / f"{number}.png")
    changes = [f"data.path={tmp_path}", "data.image_size=8", "data.resize_shorter=8"]
    run = Run(tmp_path, load_recipe("finetune-folder", changes), ("bear", "cat", "dog"))
    message = "have the classes ant, bear, cat now, and had the classes bear, cat, dog at the train"
    with pytest.raises(RunError, match=message):
        open_run_split(run, "test")
    with pytest.raises(RunError, match="have the classes ant, bear, cat now"):
        open_run_split(replace(run, labels=("ant", "bear")), "test")
    open_run_split(replace(run, labels=("the ant", "bear", "the cat")), "test")  # only renamed


def test_a_folder_has_no_split_that_its_recipe_does_not_name(tmp_path: Path) -> None:
    """Such a split would be taken out of the images that were trained on."""
    for label in "ab":
        (tmp_path / label).mkdir()
        for number in range(60):
            pixels = np.random.default_rng([number, ord(label)]).integers(0, 256, (8, 8, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / label / f"{number}.png")
    changes = [f"data.path={tmp_path}", "data.image_size=8", "data.resize_shorter=8"]
    changes += ["data.train_split=train[:80%]", "data.validation_split=train[80%:]"]
    data = load_recipe("finetune-folder", changes).data
    with pytest.raises(ValueError, match="there is no split 'validation', or it has no images"):
        open_split(data, "validation", batch_size=8)

    def images(split: str) -> set[bytes]:
        batches = open_split(data, find_split(data, split), batch_size=8)
        return {image.tobytes() for images, _ in batches for image in images.numpy()}

    assert not images("train") & images("validation")
    assert not images("train") & images("test")


def test_loss_and_accuracy_are_those_of_keras(tmp_path: Path) -> None:
    loaded = load_recipe(
        "digits-googlenet", ["data.test_split=test[:48]", "augmentation.label_smoothing=0.1"]
    )
    loaded = replace(loaded, training=replace(loaded.training, batch_size=16))
    keras.utils.set_random_seed(0)
    model = build_model(loaded, classes=10)
    for weight in model.get_layer("logits").weights:  # else float32 rounds probabilities to 0
        weight.assign(0.01 * weight)
    compile_model(model, loaded, steps_per_epoch=1)
    made = Run(tmp_path, loaded, tuple("0123456789"))
    model.save(tmp_path / "model.keras")
    batches = open_split(loaded.data, "test[:48]", batch_size=16, one_hot=True).epoch(0)
    expected = model.evaluate(for_outputs(model, batches), return_dict=True, verbose=0)
    found = evaluate(made)
    assert found["samples"] == 48
    assert found["loss"] == pytest.approx(expected["main_loss"], rel=1e-5)
    assert found["accuracy"] == pytest.approx(expected["main_accuracy"])


def test_a_training_decodes_each_split_once(trained: tuple[Run, list[int]]) -> None:
    run, decoded = trained
    assert (run.path / "report.html").is_file()
    assert decoded == [96, 32, 32]  # training, validation, test


def test_evaluation_and_report_decode_their_split_alone(
    finished_run: Run, decoded: list[int]
) -> None:
    evaluate(finished_run)
    assert decoded == [32]
    write_report(finished_run.path)
    assert decoded == [32, 32]


def test_more_images_than_a_batch_are_predicted(finished_run: Run, tmp_path: Path) -> None:
    images, _ = next(iter(open_split(finished_run.recipe.data, "test[:40]", batch_size=40)))
    paths = [tmp_path / f"{number}.png" for number in range(40)]
    for path, image in zip(paths, images.numpy(), strict=True):
        tf.io.write_file(str(path), tf.io.encode_png(image))
    expected = finished_run.load_model().predict_on_batch(images)
    answers = predict(finished_run, iter(paths), top_k=1)
    assert [int(label) for ((label, _),) in answers] == expected.argmax(axis=1).tolist()
