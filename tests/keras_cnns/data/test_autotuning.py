"""No dataset starts tf.data's autotuning thread, for which the end of a `fit` can wait a minute."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tensorflow as tf

from keras_cnns.data import Split, Splits, load_split, open_split
from keras_cnns.data.autotuning import without_autotuning
from keras_cnns.data.pipeline import make_split
from keras_cnns.data.sources import tfds, tfds_files
from keras_cnns.data.sources.base import ImageStream, IndexedImages
from keras_cnns.recipes import AugmentationConfig, load_recipe
from keras_cnns.training import Run
from keras_cnns.training.model import build_model, for_outputs
from keras_cnns_export.batches import first, shuffled_split

ROOT = Path(__file__).parents[3]
PACKAGES = (ROOT / "keras_cnns", ROOT / "export" / "keras_cnns_export")
DIGITS = load_recipe("digits-resnet20").data
CROPS = AugmentationConfig(inception_crop=True)


def split(**options: object) -> Split:
    return open_split(DIGITS, "test[:20]", batch_size=8, **options)


def stream() -> Split:
    encoded = tf.data.Dataset.from_tensors((b"", tf.constant(0, tf.int64)))
    return make_split(
        ImageStream(1, lambda order, start: encoded.skip(start)), DIGITS, 10, batch_size=1
    )


def of_two_outputs() -> tf.data.Dataset:
    recipe = load_recipe("digits-googlenet")
    return for_outputs(build_model(recipe, classes=10), split().epoch(0))


# Public function -> datasets that it returns.
CASES: dict[str, list[Callable[[], tf.data.Dataset]]] = {
    "Split.epoch": [lambda: split().epoch(1, 2), lambda: split(in_memory=False).epoch(0)],
    "Split.steps_from": [
        lambda: split(seed=1, augmentation=CROPS).steps_from(3),
        lambda: stream().steps_from(),
    ],
    "Split.probe": [lambda: split(seed=1).probe()],
    "_StreamedSplit.probe": [lambda: stream().probe()],
    "load_split": [lambda: load_split(DIGITS, "test[:20]", batch_size=8)],
    "without_autotuning": [lambda: without_autotuning(tf.data.Dataset.range(3))],
    "for_outputs": [of_two_outputs],
}


@pytest.mark.parametrize("name", CASES)
def test_autotuning_is_off(name: str) -> None:
    for make in CASES[name]:
        assert make().options().autotune.enabled is False


def public_functions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield from public_functions(child, f"{child.name}.")
        elif isinstance(child, ast.FunctionDef) and not child.name.startswith("_"):
            yield f"{prefix}{child.name}", child


def test_every_function_that_returns_a_dataset_is_tested() -> None:
    files = [file for package in PACKAGES for file in package.rglob("*.py")]
    found = {
        name
        for file in files
        for name, function in public_functions(ast.parse(file.read_text("utf-8")))
        if function.returns and "tf.data.Dataset" in ast.unparse(function.returns)
    }
    # `for_outputs` returns Any, because it also passes Keras' other kinds of data.
    assert found == set(CASES) - {"for_outputs"}


def test_nothing_leaves_its_parallelism_to_autotuning() -> None:
    files = [file for folder in (*PACKAGES, ROOT / "benchmarks") for file in folder.rglob("*.py")]
    assert len(files) > 50
    assert [file for file in files if "AUTOTUNE" in file.read_text("utf-8")] == []


def test_no_dataset_of_a_training_is_autotuned(
    finished_run: Run, autotuning_in_training: list[bool | None]
) -> None:
    # Three splits are decoded, and the batches of the training and of its validations are read.
    assert len(autotuning_in_training) > 3
    assert set(autotuning_in_training) == {False}


def test_no_dataset_of_an_exports_samples_is_autotuned(autotuning: list[bool | None]) -> None:
    first(shuffled_split(Splits(DIGITS), "train[:20]"), 8)
    assert autotuning
    assert set(autotuning) == {False}


def test_no_dataset_of_a_split_by_content_is_autotuned(
    monkeypatch: pytest.MonkeyPatch, autotuning: list[bool | None]
) -> None:
    images = IndexedImages(4, lambda index: (tf.zeros((2, 2, 1), tf.uint8), index))
    monkeypatch.setattr(tfds_files, "open_images", lambda *_: images)
    tfds.divide_training(DIGITS)
    assert autotuning == [False]
