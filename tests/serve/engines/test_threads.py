import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from keras_cnns_serve.engines import threads
from keras_cnns_serve.engines.base import LoadedEngine
from keras_cnns_serve.engines.choice import Loaded
from keras_cnns_serve.engines.onnxruntime import OnnxRuntimeEngine
from keras_cnns_serve.engines.threads import (
    PAIRS,
    UNSURE_PERIOD,
    Choice,
    Elastic,
    Key,
    choose_threads,
)
from keras_cnns_serve.errors import VersionRefusedError
from keras_cnns_serve.repository.manifest import Manifest, read_manifest
from tests.serve.conftest import write_version

IMAGE = np.zeros((1, 8, 8, 1), np.uint8)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return read_manifest(write_version(tmp_path / "grey" / "1") / "model.json")


@pytest.fixture
def key(request: pytest.FixtureRequest) -> Iterator[Key]:
    key = Key(request.node.name, "onnxruntime", "float32", 2)
    yield key
    threads._choices.pop(key, None)


def choose(
    open_engine: Callable[[int], LoadedEngine], manifest: Manifest, key: Key, calm: bool = True
) -> tuple[LoadedEngine, Choice]:
    return choose_threads(open_engine, manifest, 1, key, "grey/1", lambda cores: calm)


class Fake:
    def shrink(self) -> None:
        pass


class Large(Fake):
    """An engine that waits 4 ms for each image, divided by the number of threads."""

    def __init__(self, threads: int, loss: float = 0.0) -> None:
        self.seconds = 0.004 / threads * (1 if threads == 1 else 1 + loss)

    def run(self, images: NDArray[np.uint8], names: Any = None) -> dict[str, Any]:
        time.sleep(self.seconds * len(images))
        return {}


class Computing(Large):
    """The same engine, which computes instead of waiting."""

    def run(self, images: NDArray[np.uint8], names: Any = None) -> dict[str, Any]:
        end = time.thread_time() + self.seconds * len(images)
        while time.thread_time() < end:
            pass
        return {}


def test_a_small_network_gets_one_thread(tmp_path: Path, manifest: Manifest, key: Key) -> None:
    opened: list[int] = []

    def open_engine(threads: int) -> LoadedEngine:
        opened.append(threads)
        return OnnxRuntimeEngine(tmp_path / "grey" / "1" / "model.onnx", manifest, threads)

    engine, choice = choose(open_engine, manifest, key, calm=False)
    assert (choice.threads, choice.both, opened) == (1, False, [1])
    reason = r"^an image takes 0\.\d\d ms, which is too short to use several cores$"
    assert re.search(reason, choice.reason)
    assert 0 < choice.seconds < 1
    assert engine.run(IMAGE)["probabilities"].shape == (1, 10)


@pytest.mark.parametrize(
    ("loss", "chosen", "why"),
    [
        (
            0.0,
            2,
            r"^a single image is faster with all cores \(\d+\.\d\d ms against \d+\.\d\d ms\)$",
        ),
        (1.0, 1, r"^a single image is not 1\.3 times as fast with all cores \(\d+\.\d\d ms aga"),
    ],
)
def test_a_large_network_gets_all_cores_if_they_help(
    manifest: Manifest, key: Key, loss: float, chosen: int, why: str
) -> None:
    engine, choice = choose(lambda threads: Large(threads, loss), manifest, key)
    assert choice.threads == chosen
    assert re.search(why, choice.reason)
    assert isinstance(engine, Elastic) == choice.both == (chosen == 2)
    assert 0.0019 < choice.seconds < 0.1  # half of the 4 ms that an image takes beside another


def test_a_choice_is_measured_once_for_equal_files(manifest: Manifest, key: Key) -> None:
    first = choose(lambda threads: Large(threads), manifest, key)[1]

    class Idle(Fake):
        def run(self, images: Any, names: Any = None) -> dict[str, Any]:
            raise AssertionError("it was measured again")

    engine, choice = choose(lambda threads: Idle(), manifest, key)
    assert choice is first
    assert isinstance(engine, Elastic)


def test_a_choice_on_a_busy_machine_is_a_default_that_serving_corrects(
    manifest: Manifest, key: Key, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "CALM_SECONDS", 0.05)
    monkeypatch.setattr(threads, "LONG", 0.002)
    alone, shared = Computing(1), Computing(2)
    engines = {1: alone, 2: shared}
    engine, choice = choose(lambda threads: engines[threads], manifest, key, calm=False)
    assert (choice.threads, choice.measured) == (2, False)
    assert re.fullmatch(
        r"an image takes \d\.\d\d ms; other processes prevent a measurement",
        choice.reason,
    )
    loaded = Loaded(engine, manifest.formats[0], choice, 2, "the only format")
    alone.seconds, shared.seconds = 0.0002, 0.0005
    with caplog.at_level(logging.INFO):
        until_it_has(engine, choice, 1)
    (message,) = caplog.messages
    assert re.fullmatch(
        r"grey/1: at most 1 thread per image, because a single image is not 1\.3 times as "
        r"fast with all cores \(0\.\d\d ms against 0\.\d\d ms\), measured while serving",
        message,
    )
    assert message.endswith(choice.reason)
    assert (loaded.threads, loaded.reason) == (1, f"the only format; {choice.reason}")
    monkeypatch.setattr(threads, "PERIOD", 8)
    caplog.clear()
    alone.seconds, shared.seconds = 0.0005, 0.0002
    with caplog.at_level(logging.INFO):
        until_it_has(engine, choice, 2)
    assert len(caplog.messages) == 1
    assert choose(lambda threads: engines[threads], manifest, key)[1] is choice


def test_a_network_that_is_not_long_gets_one_thread_on_a_busy_machine(
    manifest: Manifest, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "CALM_SECONDS", 0.05)
    monkeypatch.setattr(threads, "LONG", 10)
    engine, choice = choose(lambda threads: Large(threads), manifest, key, calm=False)
    assert (choice.threads, choice.both, choice.measured) == (1, True, False)
    assert isinstance(engine, Elastic)


def until_it_has(engine: LoadedEngine, choice: Choice, threads: int) -> None:
    end = time.monotonic() + 60
    while choice.threads != threads:
        assert time.monotonic() < end
        engine.run(IMAGE)
    assert choice.measured


def test_runs_beside_others_and_of_several_images_decide_nothing(manifest: Manifest) -> None:
    choice = Choice(2, True, "it was measured", 0.001, measured=False)
    slow, fast = Computing(1), Computing(1)
    slow.seconds, fast.seconds = 0.0005, 0.0002
    engine = Elastic(fast, slow, 1, 2, choice, "grey/1")
    for _ in range(UNSURE_PERIOD * PAIRS):
        engine.run(np.zeros((2, 8, 8, 1), np.uint8))
    beside = threading.Event()

    class Blocked(Fake):
        def run(self, images: Any, names: Any = None) -> dict[str, Any]:
            assert beside.wait(10)
            return {}

    engine._one_thread, engine._all_threads = Blocked(), Blocked()
    with ThreadPoolExecutor(1) as pool:
        blocked = pool.submit(engine.run, IMAGE)
        while not engine._running:
            time.sleep(0.001)
        engine._one_thread, engine._all_threads = fast, slow
        for _ in range(UNSURE_PERIOD * PAIRS):
            engine.run(IMAGE)
        beside.set()
        blocked.result()
    assert (choice.threads, choice.measured) == (2, False)


def test_what_cannot_be_loaded_twice_is_loaded_once(
    manifest: Manifest, key: Key, caplog: pytest.LogCaptureFixture
) -> None:
    def open_engine(threads: int) -> LoadedEngine:
        if threads > 1:
            raise VersionRefusedError("there is no memory left")
        return Large(1)

    engine, choice = choose(open_engine, manifest, key)
    assert (type(engine), choice.threads) == (Large, 1)
    assert choice.reason == "the graph could not be loaded again for all cores"
    assert "there is no memory left" in caplog.text


def test_few_runs_share_all_cores_and_many_have_one_each() -> None:
    ran: list[str] = []
    inside, go = threading.Semaphore(0), threading.Event()

    class Named(Fake):
        def __init__(self, name: str) -> None:
            self._name = name

        def run(self, images: Any, names: Any = None) -> dict[str, Any]:
            ran.append(self._name)
            inside.release()
            assert go.wait(10)
            return {}

    choice = Choice(4, True, "", 0.0)
    engine = Elastic(Named("alone"), Named("shared"), 2, 4, choice, "grey/1")
    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(engine.run, IMAGE)
            assert inside.acquire(timeout=10)
        go.set()
    assert ran == ["shared", "shared", "alone", "alone"]
    engine.run(IMAGE)
    assert ran[-1] == "shared"
