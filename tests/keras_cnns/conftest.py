"""A run that every test may read: trained once, on a few digits."""

from pathlib import Path
from typing import Any

import planted
import pytest
import tensorflow as tf

from keras_cnns.data import pipeline
from keras_cnns.data.sources.base import IndexedImages
from keras_cnns.recipes import DataConfig, Recipe, load_recipe
from keras_cnns.report import write_report
from keras_cnns.training import Run, train
from keras_cnns.training.folds import collect_out_of_fold, train_folds
from tests.conftest import Once

# Large enough for a real training, and small enough to take only seconds.
QUICK = (
    "data.train_split=train[:96]",
    "data.validation_split=validation[:32]",
    "data.test_split=test[:32]",
    "training.epochs=2",
)


@pytest.fixture(scope="session")
def quick_recipe() -> Recipe:
    return load_recipe("digits-resnet20", QUICK)


def count_decoded(patch: pytest.MonkeyPatch) -> list[int]:
    """Return a list; whenever a split is decoded, its number of images is appended."""
    counts: list[int] = []
    decode_all = pipeline._decode_all

    def counted(images: IndexedImages, config: DataConfig) -> Any:
        counts.append(images.count)
        return decode_all(images, config)

    patch.setattr(pipeline, "_decode_all", counted)
    return counts


def record_autotuning(patch: pytest.MonkeyPatch) -> list[bool | None]:
    """Return a list; whenever a dataset is iterated over, its option autotune is appended."""
    enabled: list[bool | None] = []
    iterate = tf.data.Dataset.__iter__

    def recorded(self: tf.data.Dataset) -> Any:
        enabled.append(self.options().autotune.enabled)
        return iterate(self)

    patch.setattr(tf.data.Dataset, "__iter__", recorded)
    return enabled


@pytest.fixture
def autotuning(monkeypatch: pytest.MonkeyPatch) -> list[bool | None]:
    """The option autotune.enabled of each dataset that the test has iterated over, in order."""
    return record_autotuning(monkeypatch)


@pytest.fixture(scope="session")
def autotuning_in_training() -> list[bool | None]:
    """The same list for the training of the fixture `trained`, which fills it."""
    return []


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images of each split that the test has decoded, in order."""
    return count_decoded(monkeypatch)


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
    quick_recipe: Recipe,
    autotuning_in_training: list[bool | None],
) -> tuple[Run, list[int]]:
    """A run, and the number of images of each split that its training decoded."""
    with pytest.MonkeyPatch.context() as patch:
        counts, enabled = count_decoded(patch), record_autotuning(patch)
        run = train(quick_recipe, tmp_path_factory.mktemp("runs") / "quick")
        write_report(run.path, run.predictions)
        autotuning_in_training += enabled
        return run, counts


@pytest.fixture(scope="session")
def finished_run(trained: tuple[Run, list[int]]) -> Run:
    return trained[0]


@pytest.fixture(scope="session")
def runs(finished_run: Run) -> Path:
    return finished_run.path.parent


@pytest.fixture(scope="session")
def planted_folder(once: Once) -> Path:
    """A folder of images with wrong labels; see `planted`."""
    return once("planted", lambda directory: planted.fill(directory / "photos")) / "photos"


@pytest.fixture(scope="session")
def trained_folds(once: Once, planted_folder: Path) -> Path:
    """The directory of trained folds of that folder."""

    def fill(directory: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            planted.register(patch)
            recipe = planted.make_recipe(planted_folder)
            assert len(list(train_folds(recipe, directory, planted.FOLDS))) == planted.FOLDS
            collect_out_of_fold(directory, planted.FOLDS)

    return once("folds", fill)
