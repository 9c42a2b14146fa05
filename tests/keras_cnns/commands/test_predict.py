"""`keras-cnns predict` with the directory of an exported model."""

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

from keras_cnns.cli import app
from keras_cnns.commands import predict
from keras_cnns.runs.exported import find_published


@pytest.fixture(params=["models/digits", "models/digits/2"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    (tmp_path / "models/digits/2").mkdir(parents=True)
    (tmp_path / "models/digits/2/model.json").write_text("{}")
    return tmp_path / str(request.param)


def test_a_model_is_scored_by_the_server_distribution(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def score(arguments: Sequence[str], program: str) -> int:
        calls.append((list(arguments), program))
        return 3

    def entry_points(group: str, name: str) -> list[SimpleNamespace]:
        assert (group, name) == ("keras_cnns.commands", "score")
        return [SimpleNamespace(load=lambda: score)]

    monkeypatch.setattr(metadata, "entry_points", entry_points)
    arguments = ["predict", str(model), "photos", "photos/**/*.jpg", "--top-k", "2"]
    assert CliRunner().invoke(app, arguments).exit_code == 3
    assert calls == [
        ([str(model), "photos", "photos/**/*.jpg", "--top-k", "2"], "keras-cnns predict")
    ]


def test_a_threshold_is_passed_to_the_server_distribution(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def score(model: Path, arguments: Sequence[str]) -> int:
        calls.append((model, list(arguments)))
        return 0

    monkeypatch.setattr(predict, "_score", score)
    command = ["predict", str(model), "a.png", "--min-probability", "0.9"]
    assert CliRunner().invoke(app, command).exit_code == 0
    arguments = ["a.png", "--min-probability", "0.900000000", "--top-k", "5"]
    assert calls == [(model, arguments)]


def test_without_the_server_distribution_the_message_says_what_to_install(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "entry_points", lambda **_: [])
    with pytest.raises(RuntimeError, match="is an exported model, which keras-cnns-serve scores"):
        typer.main.get_command(app).main(
            ["predict", str(model), "a.png"], prog_name="x", standalone_mode=False
        )


def test_a_run_directory_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("")
    (tmp_path / "checkpoints").mkdir()
    assert not find_published(tmp_path)
    assert not find_published(tmp_path / "absent")
