"""A run that every test may read: trained once, on a few digits."""

from pathlib import Path
from typing import Any

import pytest

from keras_cnns.data import Split
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


def count_decoded(patch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which the number of images of each split that is decoded is appended."""
    counts: list[int] = []
    read_all = Split._read_all

    def counted(self: Split, samples: Any) -> Any:
        counts.append(samples.count)
        return read_all(self, samples)

    patch.setattr(Split, "_read_all", counted)
    return counts


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images of each split that the test has decoded, in order."""
    return count_decoded(monkeypatch)


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory, quick_recipe: Recipe
) -> tuple[Run, list[int]]:
    """A run, and the number of images of each split that its training decoded."""
    with pytest.MonkeyPatch.context() as patch:
        counts = count_decoded(patch)
        return train(quick_recipe, tmp_path_factory.mktemp("runs") / "quick"), counts


@pytest.fixture(scope="session")
def finished_run(trained: tuple[Run, list[int]]) -> Run:
    return trained[0]


@pytest.fixture(scope="session")
def runs(finished_run: Run) -> Path:
    return finished_run.path.parent
