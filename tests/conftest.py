"""What all tests share."""

import contextlib
import ctypes
import gc
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_CNNS_CACHE"] = "off"  # a test that needs the cache uses a cache of its own
os.environ["KERAS_CNNS_OFFLINE"] = "1"  # a test that downloads weights uses a server of its own


@pytest.fixture(autouse=True, scope="module")
def what_survives_a_file_is_not_searched_again() -> Iterator[None]:
    """At the end, a worker holds millions of objects, and each garbage collection searches them."""
    yield
    if "keras" in sys.modules:
        from keras_cnns.keras_internals import clear_session

        clear_session()  # collects garbage
    else:
        gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Print the exit status of a worker whose process has ended, for example -9 after SIGKILL."""
    if error:
        with contextlib.suppress(subprocess.TimeoutExpired):  # after an interruption, it still runs
            status = node.gateway._io.popen.wait(5)  # execnet has no public name for the process
            print(f"\n{node.gateway.id} has ended with status {status}")


Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Return a function that returns the directory with a given name.

    Only one of pytest's workers creates and fills the directory. The tests only read it.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def fill_once(name: str, fill: Callable[[Path], object]) -> Path:
        directory, is_filled = root / name, root / f"{name}.filled"
        with FileLock(root / f"{name}.lock"):
            if not is_filled.exists():
                directory.mkdir()
                fill(directory)
                is_filled.touch()
        return directory

    return fill_once


@pytest.fixture(autouse=True)
def logging_is_left_as_it_was() -> Iterator[None]:
    """Code that silences the root logger would also silence it for a user's whole program."""
    before = _logging()
    yield
    assert _logging() == before


@pytest.fixture(autouse=True, scope="session")
def first_signal_stack() -> bytes:
    """The main thread's alternate signal stack before any test."""
    return _signal_stack()


@pytest.fixture(autouse=True)
def the_signal_stack_is_left_as_it_was(first_signal_stack: bytes) -> Iterator[None]:
    """If a library leaves the thread a signal stack that was freed, a signal ends the process."""
    yield
    assert _signal_stack() == first_signal_stack


def _signal_stack() -> bytes:
    stack = ctypes.create_string_buffer(24)  # the structure stack_t
    if sys.platform == "linux":
        ctypes.CDLL(None).sigaltstack(None, stack)
    return stack.raw


def _logging() -> tuple[int, int, set[int]]:
    root = logging.getLogger()
    levels = {handler.level for handler in root.handlers}
    return root.level, root.manager.disable, levels
