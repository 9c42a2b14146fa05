from pathlib import Path

import pytest
from typer.testing import CliRunner

from keras_cnns.cli import app
from keras_cnns.commands.lab import Images
from keras_cnns.lab.experiments import EXPERIMENTS
from keras_cnns.lab.networks import DATA
from keras_cnns.lab.report import PAGE


def test_the_options_are_those_of_the_laboratory() -> None:
    assert tuple(each.value for each in Images) == DATA


def test_experiments_are_listed() -> None:
    listed = CliRunner().invoke(app, ["lab", "list"])
    assert listed.exit_code == 0
    assert all(name in listed.output for name in EXPERIMENTS)


def test_a_second_run_measures_nothing(saddle_folder: Path) -> None:
    (measurements,) = (saddle_folder / "measurements").iterdir()
    before = measurements.stat()
    (saddle_folder / PAGE).unlink()
    result = CliRunner().invoke(app, ["lab", "run", "saddle", "--to", str(saddle_folder)])
    assert result.exit_code == 0
    assert measurements.stat() == before
    assert (saddle_folder / PAGE).is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "saddel"], "there is no experiment 'saddel'; did you mean 'saddle'?"),
        (["report", "--to", "nowhere"], "nowhere/lab.json does not exist: "),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["lab", *arguments])
    assert result.exit_code != 0
    assert message in (result.output + str(result.exception)).replace("\n", " ")
