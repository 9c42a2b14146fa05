import threading
import time

import pytest

from keras_cnns_serve.engines.trial import Interruption, call_within


class Hanging:
    def __init__(self) -> None:
        self.interrupted = threading.Event()

    def interrupt(self) -> None:
        self.interrupted.set()


def fail(interruption: Interruption) -> int:
    raise ValueError("it fails")


def test_what_ends_in_time_is_returned_or_raised() -> None:
    assert call_within(10, lambda interruption: 1) == 1
    with pytest.raises(ValueError, match="it fails"):
        call_within(10, fail)


def test_engines_are_interrupted_also_those_that_are_opened_too_late() -> None:
    engines = [Hanging(), Hanging()]
    ended = threading.Event()

    def work(interruption: Interruption) -> None:
        for engine in engines:
            interruption.add(engine)
            assert engine.interrupted.wait(10)
        ended.set()

    with pytest.raises(TimeoutError):
        call_within(0.05, work)
    assert ended.wait(10)


def test_what_cannot_be_interrupted_is_left_behind() -> None:
    go = threading.Event()
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        call_within(0.05, lambda interruption: go.wait(20))
    assert time.monotonic() - started < 10
    go.set()
