import shutil
import threading
import time
from pathlib import Path
from queue import Queue

import pytest

from keras_cnns_serve.core.dataplane import Dataplane
from keras_cnns_serve.core.prediction import Target
from keras_cnns_serve.core.servable import Options
from keras_cnns_serve.engines.choice import EngineOptions
from keras_cnns_serve.repository.configuration import ConfigFile, ServerConfig
from keras_cnns_serve.repository.files import MAX_FILES
from keras_cnns_serve.repository.watcher import Watcher
from tests.serve.conftest import write_version
from tests.serve.engines.graphs import endless_graph


def test_it_looks_at_intervals_and_logs_a_failure_once(caplog: pytest.LogCaptureFixture) -> None:
    looks: Queue[int] = Queue()
    disk, memory = OSError("no disk"), OSError("no memory")
    failures = iter([None, disk, disk, memory, None, memory, AssertionError()])

    def look() -> None:
        looks.put(0)
        failure = next(failures, None)
        if failure is not None:
            raise failure

    watcher = Watcher(look, 0.01)
    watcher.start()
    try:
        for _ in range(9):
            looks.get(timeout=10)
    finally:
        watcher.stop()
    said = "polling for changes failed, and the served models do not change: "
    whys = ("no disk", "no memory", "no memory", "AssertionError")  # which has no text
    assert caplog.messages == [said + why for why in whys]


def test_it_stops_at_once_between_two_looks() -> None:
    looks: Queue[int] = Queue()
    watcher = Watcher(lambda: looks.put(0), 3600)
    watcher.start()
    started = time.monotonic()
    watcher.stop()
    assert time.monotonic() - started < 60
    assert looks.empty()


def test_a_look_that_takes_long_is_not_waited_for() -> None:
    looking, go = threading.Event(), threading.Event()

    def look() -> None:
        looking.set()
        go.wait(10)

    watcher = Watcher(look, 0.01)
    watcher.start()
    assert looking.wait(10)
    watcher.stop(0.01)
    assert not go.is_set()
    go.set()


def test_a_published_version_is_served_by_itself(tmp_path: Path) -> None:
    write_version(tmp_path / "models" / "grey" / "1")
    dataplane = Dataplane.open(tmp_path / "models")
    try:
        dataplane.watch(0.05)
        hidden = write_version(tmp_path / "models" / "grey" / ".new-2")
        hidden.rename(tmp_path / "models" / "grey" / "2")
        end = time.monotonic() + 10
        while dataplane.metadata(Target("grey")).version != 2:
            assert time.monotonic() < end
            time.sleep(0.01)
    finally:
        dataplane.close(5)


def test_a_configuration_that_names_an_incomplete_version_is_tried_again(tmp_path: Path) -> None:
    grey = tmp_path / "grey"
    write_version(grey / "1")
    path = tmp_path / "models.toml"
    text = '[models.grey]\npath = "grey"\nversions = "all"\nlabels = {{ stable = {} }}\n'
    path.write_text(text.format(1))
    file = ConfigFile(path)
    dataplane = Dataplane(file.config, Options())
    polls, attempts = 0, 0
    sync, reconfigure = dataplane.manager.sync, dataplane.manager.reconfigure

    def counting_sync() -> None:
        nonlocal polls
        polls += 1
        sync()

    def counting_reconfigure(config: ServerConfig) -> None:
        nonlocal attempts
        attempts += 1
        reconfigure(config)

    dataplane.manager.sync = counting_sync  # type: ignore[method-assign]
    dataplane.manager.reconfigure = counting_reconfigure  # type: ignore[method-assign]
    end = time.monotonic() + 10
    try:
        dataplane.watch(0.02, file.changed)
        path.write_text(text.format(2))
        while not attempts or polls < 5:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert attempts == 1  # only after a change of the files
        assert dataplane.metadata(Target("grey", label="stable")).version == 1
        write_version(grey / ".new-2").rename(grey / "2")
        while dataplane.metadata(Target("grey", label="stable")).version != 2:
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
        dataplane.watch(0.05)
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


def test_a_version_that_never_loads_is_refused_and_blocks_no_other(tmp_path: Path) -> None:
    root = tmp_path / "models"
    write_version(root / "grey" / "1")
    engine = EngineOptions(load_timeout=0.3)
    dataplane = Dataplane.open(root, options=Options(engine))
    try:
        dataplane.watch(0.05)
        for place, model in {
            "grey/2": endless_graph(),
            "other/1": endless_graph(),
            "zebra/1": None,
        }.items():
            hidden = write_version(tmp_path / "new" / place, model)
            (root / place).parent.mkdir(exist_ok=True)
            hidden.rename(root / place)
        end = time.monotonic() + 20
        while "zebra" not in dataplane.manager.models:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert dataplane.metadata(Target("grey")).version == 1
        for name, version in (("grey", 2), ("other", 1)):
            (state,) = dataplane.status(Target(name, version))
            assert (state.state, state.code) == ("END", "FAILED_PRECONDITION")
            assert state.message.startswith("model.onnx was not loaded and run once within 0.3 s")
    finally:
        dataplane.close(5)


def test_a_directory_of_very_many_files_does_not_stop_the_watcher(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "models"
    write_version(root / "grey" / "1")
    dataplane = Dataplane.open(root)
    try:
        dataplane.watch(0.05)
        (root / "grey" / "2").mkdir()
        for number in range(MAX_FILES + 1):
            (root / "grey" / "2" / str(number)).touch()
        shutil.copy(root / "grey" / "1" / "model.json", root / "grey" / "2")
        write_version(root / "other" / "1")
        end = time.monotonic() + 20
        while "other" not in dataplane.manager.models:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert dataplane.metadata(Target("grey")).version == 1
    finally:
        dataplane.close(5)
    assert dataplane._watcher
    assert not dataplane._watcher._thread.is_alive()
