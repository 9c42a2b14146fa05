"""Save a training before a signal ends it."""

import signal
import threading
from typing import Any

import keras

from keras_cnns.messages import print_message
from keras_cnns.training.callbacks.resume import Resume


class StopOnSignal(keras.callbacks.Callback):
    """On SIGTERM and SIGINT (Ctrl-C) finish the step, save the state, and end the training.

    After SIGTERM, `SystemExit` is raised with status 143, which a shell also reports for a process
    that this signal has ended. After SIGINT, `KeyboardInterrupt` is raised. An evaluation ends at
    its next batch. A second signal has the effect that it would have without this callback. A
    signal that was ignored when the process was started (SIGINT in a background job of a shell
    script) stays ignored.

    Args:
        resume: the callback that saves the state; it precedes this callback in `fit`'s list.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, resume: Resume) -> None:
        super().__init__()
        self.resume = resume
        self.received: signal.Signals | None = None
        self._former: dict[signal.Signals, Any] = {}

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Install the handlers; this works only in the main thread of a process."""
        self.received = None
        if threading.current_thread() is threading.main_thread():
            self._former = {
                each: signal.signal(each, self._note)
                for each in self.SIGNALS
                if signal.getsignal(each) != signal.SIG_IGN
            }

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Save the state and end the training if there was a signal."""
        if self.received:
            self.resume.save()
            self._leave()

    def on_test_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """End an evaluation if there was a signal; a resumed training repeats the evaluation."""
        if self.received:
            self.resume.save_snapshot()
            self._leave()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Restore the handlers; end the process if there was a signal."""
        self.close()
        if self.received:
            self.resume.save_snapshot()
            self._leave()

    def close(self) -> None:
        """Restore the previous handlers.

        Call this after a failure of `fit`, which then calls no callback.
        """
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}

    def _note(self, number: int, frame: Any) -> None:
        self.received = signal.Signals(number)
        self.close()

    def _leave(self) -> None:
        assert self.received is not None
        saved = max(self.resume.saved, default=None)
        print_message(
            f"{self.received.name}: no checkpoint could be written"
            if saved is None
            else f"{self.received.name}: the checkpoint of step {saved} is saved; "
            "training can be resumed"
        )
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self.received)
