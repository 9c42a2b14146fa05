"""The names of run directories."""

from pathlib import Path

import pytest

from keras_cnns.runs.names import named


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (".", "runs/photos"),
        ("..", "runs"),
        ("../photos", "../photos"),
        ("link", "link"),
    ],
)
def test_files_beside_a_run_have_a_name_to_begin_with(
    run: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A symbolic link keeps its own name."""
    tmp_path = tmp_path.resolve()
    working_directory = tmp_path / "runs/photos"
    working_directory.mkdir(parents=True)
    (working_directory / "link").symlink_to(tmp_path)
    monkeypatch.chdir(working_directory)
    found = named(Path(run))
    assert found == (tmp_path / expected if run in (".", "..") else Path(expected))
    assert found.resolve() == Path(run).resolve()
