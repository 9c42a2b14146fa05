from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from keras_cnns_serve.repository.files import ModelVersion
from keras_cnns_serve.scoring.shards import open_version
from tests.serve.conftest import CONFIDENCE, grey, write_version

Write = Callable[..., list[str]]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a model whose label is the mean pixel over 25.6."""
    root = tmp_path_factory.mktemp("scored")
    write_version(root / "grey" / "1")
    return root / "grey"


@pytest.fixture(scope="session")
def sure(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with thresholds of the probability in its model.json."""
    root = tmp_path_factory.mktemp("scored")
    write_version(root / "grey" / "1", confidence=CONFIDENCE)
    return root / "grey"


@pytest.fixture
def source(model: Path) -> ModelVersion:
    return open_version(model)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with photos/0.png ... photos/9.png, of grey 0, 26, ... 234."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for level in range(10):
        (tmp_path / "photos" / f"{level}.png").write_bytes(grey(26 * level))
    return tmp_path


def write_list(path: Path, names: Sequence[str]) -> str:
    """Write a CSV list of images."""
    path.write_text("\n".join(["file", *names]) + "\n")
    return str(path)
