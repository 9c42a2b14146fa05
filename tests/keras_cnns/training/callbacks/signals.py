"""A training that is asked to end saves itself first; test_stop_on_signal.py runs this file."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import pytest
import survivor

from keras_cnns.training.callbacks import Resume, StopOnSignal
from keras_cnns.training.checkpoint import list_checkpoints


class Raise(keras.callbacks.Callback):
    """Sends its own process a signal after some steps, and a second one at once if requested."""

    def __init__(self, number: int, step: int, times: int = 1) -> None:
        super().__init__()
        self.number, self.step, self.times = number, step, times

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if batch == self.step:
            for _ in range(self.times):
                signal.raise_signal(self.number)


@pytest.fixture(autouse=True)
def as_on_a_terminal() -> Iterator[None]:
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.mark.parametrize(
    ("number", "step", "times", "ending", "saved"),
    [
        (signal.SIGTERM, 2, 1, SystemExit, 3),
        (signal.SIGINT, 2, 1, KeyboardInterrupt, 3),
        (signal.SIGINT, 2, 2, KeyboardInterrupt, 0),  # the second acts at once
        (signal.SIGTERM, survivor.STEPS - 1, 1, SystemExit, survivor.STEPS - 1),  # the last step
    ],
)
def test_a_signal_saves_and_leaves(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    step: int,
    times: int,
    ending: type[BaseException],
    saved: int,
) -> None:
    handlers = [signal.getsignal(each) for each in StopOnSignal.SIGNALS]
    batches, _ = survivor.make_batches()
    resume = Resume(tmp_path, batches, steps_per_epoch=survivor.STEPS)
    with pytest.raises(ending) as ended:
        survivor.make_model().fit(
            batches(0),
            steps_per_epoch=survivor.STEPS,
            callbacks=[Raise(number, step, times), resume, StopOnSignal(resume)],
            shuffle=False,
            verbose=0,
        )
    if ending is SystemExit:
        assert ended.value.code == 143  # type: ignore[attr-defined]
    assert list_checkpoints(tmp_path)[0].name == f"step-{saved:08d}.checkpoint"
    if saved:
        message = capsys.readouterr().err
        text = f"the checkpoint of step {saved} is saved; training can be resumed"
        assert message == f"{number.name}: {text}\n"
    assert [signal.getsignal(each) for each in StopOnSignal.SIGNALS] == handlers


def test_what_was_ignored_stays_ignored(tmp_path: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    batches, _ = survivor.make_batches()
    resume = Resume(tmp_path, batches, steps_per_epoch=survivor.STEPS)
    survivor.make_model().fit(
        batches(0),
        steps_per_epoch=survivor.STEPS,
        callbacks=[Raise(signal.SIGINT, 2), resume, StopOnSignal(resume)],
        shuffle=False,
        verbose=0,
    )
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
