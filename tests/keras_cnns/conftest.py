"""A run that every test may read: trained once, on a few digits."""

from pathlib import Path

import pytest

from keras_cnns.recipes import Recipe, load_recipe
from keras_cnns.training import Run, train

# Enough to be real, and little enough to take seconds.
QUICK = (
    "data.train_split=train[:96]",
    "data.validation_split=validation[:32]",
    "data.test_split=test[:32]",
    "training.epochs=2",
)


@pytest.fixture(scope="session")
def quick_recipe() -> Recipe:
    return load_recipe("digits-resnet20", QUICK)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, quick_recipe: Recipe) -> Run:
    return train(quick_recipe, tmp_path_factory.mktemp("runs") / "quick")


@pytest.fixture(scope="session")
def runs(finished_run: Run) -> Path:
    return finished_run.path.parent
