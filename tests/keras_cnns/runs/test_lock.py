"""A directory belongs to one process at a time."""

import subprocess
import sys
from pathlib import Path

import pytest

from keras_cnns.runs import lock
from keras_cnns.runs.lock import locked

HOLD = """
import runpy, sys, time
from pathlib import Path
locked = runpy.run_path(sys.argv[2])["locked"]  # alone, without the packages around it
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_the_lock_ends_with_the_process(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    arguments = [sys.executable, "-c", HOLD, str(directory), lock.__file__]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(BlockingIOError), locked(directory):
            pass
        assert directory.is_dir()  # though it is empty
        process.kill()
        process.wait()
        with locked(directory):
            (directory / "file").touch()
    assert directory.is_dir()


def test_a_directory_that_stays_empty_goes_again(tmp_path: Path) -> None:
    with locked(tmp_path / "new"):
        pass
    assert not (tmp_path / "new").exists()
    with locked(tmp_path):
        pass
    assert tmp_path.exists()
