import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from keras_cnns_export import ExportError
from keras_cnns_export.publish import Draft, check_model_directory, sweep

# A process that publishes one version, and is killed at its n-th step. A step opens, creates,
# renames or removes a file or directory. The process prints what it published.
CHILD = """
import os, signal, sys
from pathlib import Path
from keras_cnns_export.publish import Draft
assert "tensorflow" not in sys.modules

model, kill_at = Path(sys.argv[1]), int(sys.argv[2])
steps = 0

def count(event, arguments):
    global steps
    if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "fcntl.flock"):
        steps += 1
        if steps == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(count)
with Draft(model) as draft:
    (draft.path / "labels.txt").write_text("a\\nb\\n")
    (draft.path / "variables").mkdir()
    (draft.path / "variables" / "data").write_bytes(bytes(1000))
    (draft.path / "model.json").write_text("{}")
    version = draft.publish({"config.pbtxt": f"for {sys.argv[3]}"})
print(version.name)
"""
FILES = ["labels.txt", "model.json", "variables", "variables/data"]


def run_child(model: Path, kill_at: int = 0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(model), str(kill_at), "one"],
        capture_output=True,
        text=True,
    )


def content(version: Path) -> list[str]:
    return sorted(path.relative_to(version).as_posix() for path in version.rglob("*"))


def test_versions_count_up_and_hold_what_was_written(tmp_path: Path) -> None:
    model = tmp_path / "models" / "digits"
    for expected in ("1", "2", "3"):
        with Draft(model) as draft:
            (draft.path / "labels.txt").write_text("a\n")
            version = draft.publish()
        assert version == model / expected
        assert content(version) == ["labels.txt"]
    (model / "41").mkdir()
    with Draft(model) as draft:
        assert draft.publish().name == "42"
    assert sorted(path.name for path in model.iterdir()) == ["1", "2", "3", "41", "42"]


def test_a_version_has_the_modes_that_the_umask_gives(tmp_path: Path) -> None:
    (tmp_path / "usual").mkdir()
    with Draft(tmp_path / "digits") as draft:
        version = draft.publish()
    assert stat.S_IMODE(version.stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def fail() -> None:
        with Draft(tmp_path / "digits") as draft:
            (draft.path / "half").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_earlier_versions(tmp_path: Path) -> None:
    run_child(tmp_path / "digits")
    with pytest.raises(ValueError, match="disk"), Draft(tmp_path / "digits"):
        raise ValueError("disk")
    assert {path.name for path in (tmp_path / "digits").iterdir()} == {"1", "config.pbtxt"}


def test_killed_at_any_step_it_leaves_a_whole_version_or_none(tmp_path: Path) -> None:
    outcomes = []
    for kill_at in range(1, 100):
        model = tmp_path / str(kill_at) / "digits"
        child = run_child(model, kill_at)
        if child.returncode == 0:
            break
        assert child.returncode == -signal.SIGKILL, child.stderr
        published = [path for path in model.glob("*") if path.name.isdigit()]
        assert all(content(version) == FILES for version in published)
        outcomes.append((len(published), len(list(model.glob(".partial-*")))))
        with Draft(model) as draft:  # the next export
            version = draft.publish()
        assert version.name == str(len(published) + 1)
        names = {str(number) for number in range(1, len(published) + 2)}
        left = {path.name for path in model.iterdir()}
        assert left - {"config.pbtxt"} == names
        if "config.pbtxt" in left:  # whole, or not there yet
            assert (model / "config.pbtxt").read_text() == "for one"
    else:
        raise AssertionError("the child was killed every time")
    assert len(outcomes) >= 15
    assert {(0, 0), (0, 1), (1, 1)} <= set(outcomes)  # before, while writing, after the rename


def test_a_sweep_leaves_what_a_running_export_writes(tmp_path: Path) -> None:
    dead = tmp_path / "digits" / ".partial-dead" / "version"
    dead.mkdir(parents=True)
    with Draft(tmp_path / "digits") as running:
        assert not dead.parent.exists()
        sweep(tmp_path / "digits")
        (running.path / "labels.txt").write_text("a\n")
        with Draft(tmp_path / "digits") as other:
            assert other.publish().name == "1"
        assert running.publish().name == "2"


def test_without_locks_an_export_works_and_a_sweep_removes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    partial = tmp_path / "digits" / ".partial-running" / "version"
    partial.mkdir(parents=True)
    with Draft(tmp_path / "digits") as draft:
        assert draft.publish({"config.pbtxt": "new"}).name == "1"
    assert partial.is_dir()


def test_a_file_beside_the_versions_is_removed_if_it_describes_none(tmp_path: Path) -> None:
    for text in ("for 1", None):
        with Draft(tmp_path / "digits") as draft:
            draft.publish({"config.pbtxt": text})
    assert sorted(path.name for path in (tmp_path / "digits").iterdir()) == ["1", "2"]


def test_nothing_is_published_if_a_file_beside_it_cannot_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "digits" / "config.pbtxt").mkdir(parents=True)
    with Draft(tmp_path / "digits") as draft, pytest.raises(IsADirectoryError, match="config"):
        draft.publish({"config.pbtxt": "for 1"})
    assert [path.name for path in (tmp_path / "digits").iterdir()] == ["config.pbtxt"]


def test_exports_at_the_same_time_get_a_version_each(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CHILD, str(tmp_path / "digits"), "0"]
    children = [
        subprocess.Popen(
            [*command, str(number)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for number in range(8)
    ]
    results = [child.communicate() for child in children]
    assert [errors for _, errors in results] == [""] * 8
    assert sorted(int(name) for name, _ in results) == list(range(1, 9))
    for number in range(1, 9):
        assert content(tmp_path / "digits" / str(number)) == FILES
    assert len(list((tmp_path / "digits").iterdir())) == 9
    # The file beside the versions belongs to the export that made the highest version.
    last = next(number for number, (name, _) in enumerate(results) if name == "8\n")
    assert (tmp_path / "digits" / "config.pbtxt").read_text() == f"for {last}"


@pytest.mark.parametrize("name", ["digits", "models/digits-resnet20", "../x", "v1.5_b"])
def test_plain_names_are_taken(name: str) -> None:
    assert check_model_directory(name) == Path(name)


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("", "its last part names the model"),
        ("models/..", "its last part names the model"),
        ("models/.hidden", "begin with a letter or digit"),
        ("models/two words", "letters, digits"),
        ("models/digits/1", "'1' looks like a version"),
        (__file__, "a file of that name exists"),
    ],
)
def test_other_names_are_refused(to: str, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        check_model_directory(to)
