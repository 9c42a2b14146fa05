"""Asked to end, a training saves itself first."""

import signal
import threading
from typing import Any

import keras

from keras_cnns.messages import say
from keras_cnns.training.callbacks.resume import Resume


class StopOnSignal(keras.callbacks.Callback):
    """On SIGTERM and SIGINT (Ctrl-C) finish the step, save the state, and leave.

    SIGTERM leaves by `SystemExit` with status 143, as a shell would say of a process that it
    ended, SIGINT by `KeyboardInterrupt`. An evaluation is left at its next batch. A second signal
    acts at once, as it would without this callback; one that the process was started to ignore
    (SIGINT in a shell script's background) stays ignored. Stand behind `Resume` in the list.

    Args:
        resume: what saves.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, resume: Resume) -> None:
        super().__init__()
        self.resume = resume
        self.received: signal.Signals | None = None
        self._former: dict[signal.Signals, Any] = {}

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Listen; only a process's main thread can."""
        self.received = None
        if threading.current_thread() is threading.main_thread():
            self._former = {
                each: signal.signal(each, self._note)
                for each in self.SIGNALS
                if signal.getsignal(each) != signal.SIG_IGN
            }

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Save and leave, if asked to."""
        if self.received:
            self.resume.save()
            self._leave()

    def on_test_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Leave an evaluation, if asked to; it is made again after the step before it."""
        if self.received:
            self.resume.save_snapshot()
            self._leave()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Listen no more."""
        self.close()
        if self.received:
            self.resume.save_snapshot()
            self._leave()

    def close(self) -> None:
        """Give the signals back to who had them; `fit` does not say when it fails."""
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}

    def _note(self, number: int, frame: Any) -> None:
        self.received = signal.Signals(number)
        self.close()

    def _leave(self) -> None:
        assert self.received is not None
        saved = max(self.resume.saved, default=None)
        say(
            f"{self.received.name}: no checkpoint could be written"
            if saved is None
            else f"{self.received.name}: the checkpoint of step {saved} is there to go on from"
        )
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self.received)
