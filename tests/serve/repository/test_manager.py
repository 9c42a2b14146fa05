import asyncio
import errno
import logging
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_cnns_serve.core.dataplane import Dataplane
from keras_cnns_serve.core.prediction import Target
from keras_cnns_serve.core.servable import Options
from keras_cnns_serve.errors import (
    ConfigError,
    InvalidInputError,
    ModelNotFoundError,
    ModelUnavailableError,
)
from keras_cnns_serve.repository.configuration import ModelConfig, ServerConfig
from keras_cnns_serve.repository.files import ModelVersion
from keras_cnns_serve.repository.manager import Manager
from keras_cnns_serve.repository.policy import All, Latest, Specific
from tests.serve.conftest import write_version

IMAGES = {"images": np.full((1, 8, 8, 1), 130, np.uint8)}


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Dataplane]]:
    with ExitStack() as stack:

        def begin(config: ServerConfig | None = None, **options: Any) -> Dataplane:
            config = config or ServerConfig(root=tmp_path, **options)
            dataplane = Dataplane(config, Options(admin=True))
            stack.callback(dataplane.close, 5)
            return dataplane

        yield begin


def answering(dataplane: Dataplane, name: str = "grey") -> list[int]:
    model = dataplane.manager.models.get(name)
    return [] if model is None else list(model.versions)


def states(dataplane: Dataplane, name: str = "grey") -> dict[int, str]:
    return {state.version: state.state for state in dataplane.manager.states(name)}


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def test_a_new_version_takes_over_and_the_old_one_ends(
    tmp_path: Path, serve: Callable[..., Dataplane]
) -> None:
    write_version(tmp_path / "grey" / "1")
    dataplane = serve()
    old = weakref.ref(dataplane.manager.models["grey"].newest.loaded.engine)
    assert old() is not None
    write_version(tmp_path / "grey" / "2")
    dataplane.manager.sync()
    assert answering(dataplane) == [2]
    until(lambda: states(dataplane) == {1: "END", 2: "AVAILABLE"})
    until(lambda: old() is None)  # its memory is released


def test_no_request_fails_while_versions_change(
    tmp_path: Path, serve: Callable[..., Dataplane]
) -> None:
    write_version(tmp_path / "grey" / "1")
    dataplane = serve()
    seen: list[int] = []
    stop = threading.Event()

    async def ask() -> None:
        while not stop.is_set():
            answers = await asyncio.gather(
                *(dataplane.predict(Target("grey"), IMAGES) for _ in range(8))
            )
            seen.extend(answer.source.version for answer in answers)

    client = threading.Thread(target=lambda: asyncio.run(ask()))
    client.start()
    try:
        for version in range(2, 6):
            write_version(tmp_path / "grey" / str(version))
            dataplane.manager.sync()
            until(lambda version=version: version in seen[-8:])  # type: ignore[misc]
    finally:
        stop.set()
        client.join()
    assert seen == sorted(seen)
    assert set(seen) == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("served_before", [True, False])
def test_a_broken_version_leaves_the_old_one_and_says_why(
    tmp_path: Path,
    serve: Callable[..., Dataplane],
    caplog: pytest.LogCaptureFixture,
    served_before: bool,
) -> None:
    write_version(tmp_path / "grey" / "1")
    if not served_before:
        write_version(tmp_path / "grey" / "2", b"not a graph")
    dataplane = serve()
    if served_before:
        write_version(tmp_path / "grey" / "2", b"not a graph")
    with caplog.at_level(logging.WARNING):
        dataplane.manager.sync()
        dataplane.manager.sync()
    assert answering(dataplane) == [1]
    broken, good = dataplane.status(Target("grey"))
    assert (good.state, broken.state, broken.code) == ("AVAILABLE", "END", "FAILED_PRECONDITION")
    assert broken.message.startswith("model.onnx does not load")
    assert len(caplog.messages) == 1  # once, not at every look
    with pytest.raises(ModelUnavailableError, match=r"grey/2 refused: model\.onnx does not"):
        dataplane.metadata(Target("grey", 2))


def test_a_version_that_was_mended_is_served(
    tmp_path: Path, serve: Callable[..., Dataplane]
) -> None:
    """As when it is copied slowly into its place, file by file."""
    write_version(tmp_path / "grey" / "1")
    whole = write_version(tmp_path.with_suffix(".elsewhere") / "grey" / "2")
    (tmp_path / "grey" / "2").mkdir()
    dataplane = serve()
    for file in ("labels.txt", "model.json"):
        shutil.copy(whole / file, tmp_path / "grey" / "2")
        dataplane.manager.sync()
        assert answering(dataplane) == [1]
    shutil.copy(whole / "model.onnx", tmp_path / "grey" / "2")
    dataplane.manager.sync()
    assert answering(dataplane) == [2]


@pytest.mark.parametrize("gone", ["", "grey", "grey/1"])
def test_what_vanishes_from_the_disk_goes_on(
    tmp_path: Path, serve: Callable[..., Dataplane], gone: str
) -> None:
    root = tmp_path / "models"
    write_version(root / "grey" / "1")
    dataplane = serve(ServerConfig(root=root))
    shutil.rmtree(root / gone)
    with pytest.raises(Exception, match="does not exist") if not gone else ExitStack():
        dataplane.manager.sync()
    assert answering(dataplane) == [1]
    assert asyncio.run(dataplane.predict(Target("grey"), IMAGES)).source.version == 1


def test_a_version_that_is_removed_while_others_stay_is_retired(
    tmp_path: Path, serve: Callable[..., Dataplane]
) -> None:
    for version in ("1", "2"):
        write_version(tmp_path / "grey" / version)
    dataplane = serve(policy=All())
    shutil.rmtree(tmp_path / "grey" / "2")
    dataplane.manager.sync()
    assert answering(dataplane) == [1]


@pytest.mark.parametrize(
    ("policy", "before", "after"),
    [
        (Latest(1), [3], [4]),
        (Latest(2), [2, 3], [3, 4]),
        (All(), [1, 2, 3], [1, 2, 3, 4]),
        (Specific(frozenset({2, 4})), [2], [2, 4]),
        (Specific(frozenset({1})), [1], [1]),
    ],
)
def test_the_policy_chooses(
    tmp_path: Path, serve: Callable[..., Dataplane], policy: Any, before: list[int], after: Any
) -> None:
    for version in ("1", "2", "3"):
        write_version(tmp_path / "grey" / version)
    dataplane = serve(policy=policy)
    assert answering(dataplane) == before
    write_version(tmp_path / "grey" / "4")
    dataplane.manager.sync()
    assert answering(dataplane) == after


def test_models_come_at_any_time(tmp_path: Path, serve: Callable[..., Dataplane]) -> None:
    dataplane = serve()
    assert not dataplane.ready()
    write_version(tmp_path / "grey" / "1")
    dataplane.manager.sync()
    assert answering(dataplane) == [1]
    assert dataplane.ready()
    assert dataplane.ready(Target("grey", 1))
    assert not dataplane.ready(Target("grey", 2))
    dataplane.stop()
    assert not dataplane.ready()


def test_labels_lead_to_versions(tmp_path: Path, serve: Callable[..., Dataplane]) -> None:
    for version in ("1", "2"):
        write_version(tmp_path / "grey" / version)
    labels = {"stable": 1, "canary": 2, "old": 7}
    model = ModelConfig("grey", tmp_path / "grey", All(), labels)
    dataplane = serve(ServerConfig((model,)))
    for label in ("stable", "canary"):
        assert dataplane.metadata(Target("grey", label=label)).version == labels[label]
        assert dataplane.status(Target("grey", label=label))[0].version == labels[label]
    with pytest.raises(InvalidInputError, match="Unrecognized servable version label: new of grey"):
        dataplane.metadata(Target("grey", label="new"))
    with pytest.raises(
        ModelNotFoundError, match=r"the label old of grey refers to version 7: .*; it has 1, 2"
    ):
        dataplane.metadata(Target("grey", label="old"))


def test_a_label_moves_before_its_version_is_retired(
    tmp_path: Path, serve: Callable[..., Dataplane], monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("1", "2"):
        write_version(tmp_path / "grey" / version)

    def config(version: int) -> ServerConfig:
        policy = Specific(frozenset({version}))
        return ServerConfig((ModelConfig("grey", tmp_path / "grey", policy, {"stable": version}),))

    dataplane = serve(config(1))
    publish, found = dataplane.manager._publish, []

    def published(*arguments: Any) -> None:
        publish(*arguments)
        found.append(dataplane.metadata(Target("grey", label="stable")).version)

    monkeypatch.setattr(dataplane.manager, "_publish", published)
    asyncio.run(dataplane.reload_config(config(2)))
    assert found[0] == 1  # both versions are served
    assert found[-1] == 2
    assert answering(dataplane) == [2]


def test_another_configuration_is_taken_whole_or_not_at_all(
    tmp_path: Path, serve: Callable[..., Dataplane]
) -> None:
    for place in ("grey/1", "grey/2", "other/1"):
        write_version(tmp_path / place)

    def config(name: str, **options: Any) -> ServerConfig:
        return ServerConfig((ModelConfig(name, tmp_path / name, **options),))

    dataplane = serve(config("grey"))
    reload = dataplane.reload_config
    asyncio.run(reload(config("grey", policy=All(), labels={"stable": 1})))
    assert answering(dataplane) == [1, 2]
    assert dataplane.metadata(Target("grey", label="stable")).version == 1
    for wrong, message in [
        (config("other", labels={"stable": 9}), "label 'stable' of other refers to version 9"),
        (ServerConfig(config("grey").models * 2), "'grey' is configured twice"),
    ]:
        with pytest.raises(ConfigError, match=message):
            asyncio.run(reload(wrong))
        assert answering(dataplane) == [1, 2]
    asyncio.run(reload(config("other")))
    assert (answering(dataplane), answering(dataplane, "other")) == ([], [1])
    with pytest.raises(ModelNotFoundError):
        dataplane.status(Target("grey"))


def test_an_administrator_unloads_and_loads(
    tmp_path: Path, serve: Callable[..., Dataplane]
) -> None:
    write_version(tmp_path / "grey" / "1")
    write_version(tmp_path / "bad" / "1", format=9)
    dataplane = serve()
    asyncio.run(dataplane.unload("grey"))
    dataplane.manager.sync()
    assert answering(dataplane) == []
    with pytest.raises(ModelUnavailableError, match="grey"):
        dataplane.metadata(Target("grey"))
    asyncio.run(dataplane.load("grey"))
    assert answering(dataplane) == [1]
    with pytest.raises(ModelUnavailableError, match=r"bad cannot be loaded: model\.json: format"):
        asyncio.run(dataplane.load("bad"))
    for ask in (dataplane.load, dataplane.unload):
        with pytest.raises(ModelNotFoundError, match="no model 'absent'"):
            asyncio.run(ask("absent"))
    entries = {(e.name, e.version): (e.state, bool(e.reason)) for e in dataplane.index()}
    assert entries == {("bad", 1): ("END", True), ("grey", 1): ("AVAILABLE", False)}


def test_statistics_tell_what_was_done(tmp_path: Path, serve: Callable[..., Dataplane]) -> None:
    write_version(tmp_path / "grey" / "1")
    dataplane = serve()
    for _ in range(3):
        asyncio.run(dataplane.predict(Target("grey"), IMAGES))
    with pytest.raises(InvalidInputError):
        asyncio.run(dataplane.predict_bytes(Target("grey"), []))
    (done,) = dataplane.statistics(Target("grey"))
    assert (done.name, done.version, done.inferences, done.executions) == ("grey", 1, 3, 3)
    assert (done.success.count, done.compute.count, done.batches[1].count) == (3, 3, 3)
    assert done.success.seconds >= done.compute.seconds > 0
    assert abs(done.last_inference - time.time()) < 60


def test_a_refused_configuration_interrupts_nothing(
    tmp_path: Path, serve: Callable[..., Dataplane]
) -> None:
    for place in ("grey/1", "other/1"):
        write_version(tmp_path / place)
    dataplane = serve(ServerConfig((ModelConfig("grey", tmp_path / "grey"),)))
    before = dataplane.manager.models["grey"].newest
    wrong = ModelConfig("other", tmp_path / "other", labels={"stable": 9})
    with pytest.raises(ConfigError, match="label 'stable' of other"):
        dataplane.manager.reconfigure(ServerConfig((wrong,)))
    assert dataplane.manager.models["grey"].newest is before  # not loaded anew
    assert list(dataplane.manager.models) == ["grey"]


def test_a_cause_that_passed_is_forgotten(
    tmp_path: Path,
    serve: Callable[..., Dataplane],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """For example too many open files: the files do not change, but can be read later."""
    version = write_version(tmp_path / "grey" / "1")
    opened = Path.open

    def too_many(path: Path, *arguments: Any, **options: Any) -> Any:
        if path == version / "model.json":
            raise OSError(errno.EMFILE, "Too many open files")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", too_many)
    dataplane = serve()
    dataplane.manager.sync()
    assert answering(dataplane) == []
    assert states(dataplane) == {1: "END"}
    assert len([text for text in caplog.messages if "Too many open files" in text]) == 1
    monkeypatch.undo()
    dataplane.manager.sync()
    assert answering(dataplane) == [1]


def test_a_load_that_goes_on_does_not_hinder_the_end(
    tmp_path: Path, serve: Callable[..., Dataplane]
) -> None:
    dataplane = serve()
    changing, done = threading.Event(), threading.Event()

    def load() -> None:
        with dataplane.manager._changing:
            changing.set()
            done.wait(10)

    loading = threading.Thread(target=load)
    loading.start()
    try:
        assert changing.wait(10)
        started = time.monotonic()
        dataplane.close(0.05)
        assert time.monotonic() - started < 5
    finally:
        done.set()
        loading.join()


def test_what_is_loaded_after_the_end_is_closed_and_no_more_is_loaded(tmp_path: Path) -> None:
    for version in ("1", "2"):
        write_version(tmp_path / "grey" / version)
    loading, go = threading.Event(), threading.Event()
    started: list[int] = []
    closed: list[int] = []

    class Slow:
        description = "slow"
        notice = ""

        def __init__(self, source: ModelVersion) -> None:
            self._version = source.version
            started.append(source.version)
            loading.set()
            assert go.wait(10)

        def close(self) -> None:
            closed.append(self._version)

    manager = Manager(ServerConfig(root=tmp_path, policy=All()), Slow)
    syncing = threading.Thread(target=manager.sync)
    syncing.start()
    assert loading.wait(10)
    manager.close(0)
    go.set()
    syncing.join(10)
    assert not syncing.is_alive()
    assert (started, closed, manager.models) == ([2], [2], {})


def test_a_reason_has_no_path_of_the_disk(
    tmp_path: Path, serve: Callable[..., Dataplane], caplog: pytest.LogCaptureFixture
) -> None:
    """Clients can read it: for a library's error, for one of ours, and for a missing directory."""
    write_version(tmp_path / "good" / "1")
    broken = write_version(tmp_path / "broken" / "1", b"no graph")
    write_version(tmp_path / "gone" / "1")
    unreadable = write_version(tmp_path / "unreadable" / "1")
    (unreadable / "labels.txt").unlink()
    (unreadable / "labels.txt").mkdir()
    models = [ModelConfig(name, tmp_path / name) for name in ("good", "broken", "unreadable")]
    models.append(ModelConfig("gone", tmp_path / "nowhere"))
    dataplane = serve(ServerConfig(tuple(models)))
    assert broken.exists()
    reasons = {entry.name: entry.reason for entry in dataplane.index()}
    assert all(reasons[name] for name in ("broken", "unreadable", "gone")), reasons
    assert str(tmp_path) not in str(reasons)
    assert "does not load" in reasons["broken"]
    assert reasons["gone"] == "its directory cannot be read: No such file or directory"
    assert str(tmp_path / "nowhere") in caplog.text  # only the administrator reads the log
