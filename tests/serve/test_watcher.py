import sys
import threading
import time
from pathlib import Path
from queue import Empty, Queue

import pytest

from keras_cnns_serve.dataplane import Dataplane, Target
from keras_cnns_serve.watcher import Watcher
from tests.serve.conftest import write_version


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
def test_a_change_is_seen_at_once(tmp_path: Path) -> None:
    looks: Queue[float] = Queue()
    watcher = Watcher(lambda: looks.put(time.monotonic()), lambda: [tmp_path], 3600)
    watcher.start()
    try:
        time.sleep(0.1)
        (tmp_path / "new").mkdir()
        looks.get(timeout=10)
        with pytest.raises(Empty):  # one look for one change
            looks.get(timeout=0.5)
        (tmp_path / "new").rmdir()
        looks.get(timeout=10)
    finally:
        watcher.stop()


@pytest.mark.parametrize("failing", ["look", "directories"])
def test_it_looks_at_intervals_and_a_failure_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, failing: str
) -> None:
    looks: Queue[int] = Queue()

    def look() -> None:
        looks.put(0)
        if failing == "look":
            raise OSError("no disk")

    def directories() -> list[Path]:
        if failing == "directories":
            raise OSError("no disk")
        return [tmp_path / "absent"]

    watcher = Watcher(look, directories, 0.01)
    watcher.start()
    try:
        for _ in range(5):
            looks.get(timeout=10)
    finally:
        watcher.stop()
    assert caplog.messages == ["what is served does not change: no disk"]


def test_a_look_that_takes_long_is_not_waited_for() -> None:
    looking, go = threading.Event(), threading.Event()

    def look() -> None:
        looking.set()
        go.wait(10)

    watcher = Watcher(look, lambda: [], 0.01)
    watcher.start()
    assert looking.wait(10)
    watcher.stop(0.01)
    assert not go.is_set()
    go.set()


def test_a_published_version_is_served_by_itself(tmp_path: Path) -> None:
    write_version(tmp_path / "models" / "grey" / "1")
    dataplane = Dataplane.open(tmp_path / "models")
    try:
        with dataplane.watched(0.05):
            hidden = write_version(tmp_path / "models" / "grey" / ".new-2")
            hidden.rename(tmp_path / "models" / "grey" / "2")
            end = time.monotonic() + 10
            while dataplane.metadata(Target("grey")).version != 2:
                assert time.monotonic() < end
                time.sleep(0.01)
    finally:
        dataplane.close(5)


def test_a_disk_that_comes_back_is_looked_at_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "models"
    write_version(root / "grey" / "1")
    dataplane = Dataplane.open(root)

    def until(version: int) -> None:
        end = time.monotonic() + 10
        while dataplane.metadata(Target("grey")).version != version:
            assert time.monotonic() < end
            time.sleep(0.01)

    try:
        with dataplane.watched(0.05):
            root.rename(tmp_path / "elsewhere")
            end = time.monotonic() + 10
            while "does not exist" not in caplog.text:
                assert time.monotonic() < end
                time.sleep(0.01)
            time.sleep(0.2)
            until(1)
            write_version(tmp_path / "elsewhere" / "grey" / "2")
            (tmp_path / "elsewhere").rename(root)
            until(2)
    finally:
        dataplane.close(5)
