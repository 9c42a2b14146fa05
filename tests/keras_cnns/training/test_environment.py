"""What a run depended on."""

import subprocess
from pathlib import Path

from keras_cnns.training.environment import describe_checkout


def git(folder: Path, *arguments: str) -> str:
    own = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    command = ["git", "-C", str(folder), *own, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_checkout_is_named_by_its_commit_and_what_is_not_in_it_has_none(tmp_path: Path) -> None:
    nothing = {"commit": None, "has_changes": None}
    assert describe_checkout(tmp_path) == nothing
    git(tmp_path, "init", "-q")
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "package.py").touch()
    (tmp_path / "code.py").write_text("x = 1\n")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-q", "-m", "First")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert describe_checkout(tmp_path) == {"commit": commit, "has_changes": False}
    assert describe_checkout(tmp_path / "installed") == nothing
    (tmp_path / "code.py").write_text("x = 2\n")
    assert describe_checkout(tmp_path) == {"commit": commit, "has_changes": True}
