"""The laboratory's folder after a short run, measured once."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from keras_cnns.cli import app


@pytest.fixture(scope="session")
def saddle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `keras-cnns lab run saddle`."""
    folder = tmp_path_factory.mktemp("lab")
    result = CliRunner().invoke(app, ["lab", "run", "saddle", "--to", str(folder)])
    assert result.exit_code == 0, result.output
    assert "saddle: 1 of 1 seeds" in result.output
    return folder
