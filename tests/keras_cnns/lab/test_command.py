from pathlib import Path

import pytest
from typer.testing import CliRunner

from keras_cnns.cli import app
from keras_cnns.commands.lab import Images
from keras_cnns.lab.networks import DATA


def test_the_options_are_those_of_the_laboratory() -> None:
    assert tuple(each.value for each in Images) == DATA


def test_experiments_are_listed_measured_and_reported(tmp_path: Path) -> None:
    listed = CliRunner().invoke(app, ["lab", "list"])
    assert listed.exit_code == 0
    assert "saddle" in listed.output
    arguments = ["lab", "run", "saddle", "--to", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "saddle: 1 of 1 seeds" in result.output
    (measurements,) = (tmp_path / "measurements").iterdir()
    before = measurements.stat()
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 0
    assert measurements.stat() == before
    (tmp_path / "lab.html").unlink()
    assert CliRunner().invoke(app, ["lab", "report", "--to", str(tmp_path)]).exit_code == 0
    assert (tmp_path / "lab.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "saddel"], "there is no experiment 'saddel'; did you mean 'saddle'?"),
        (["report", "--to", "nowhere"], "nowhere/lab.json does not exist; first measure"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["lab", *arguments])
    assert result.exit_code != 0
    assert message in (result.output + str(result.exception)).replace("\n", " ")
