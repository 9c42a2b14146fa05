"""Training that is killed at any moment goes on as if it had not been."""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_cnns.training.checkpoint import (
    SUFFIX,
    CheckpointError,
    checkpoint_path,
    list_checkpoints,
    read_checkpoint,
    write_checkpoint,
)
from keras_cnns.training.messages import say
from keras_cnns.training.snapshot import Snapshot, build, put_back, put_back_callbacks, take

KEPT = 2  # checkpoints
COST = 0.005  # share of the time that may go into writing checkpoints

# Ends Keras' loop over an epoch's steps; told apart from the True of callbacks that end it all.
EPOCH_IS_OVER = "the rest of the epoch that was resumed is over"


class Resume(keras.callbacks.Callback):
    """Save a training's whole state now and then, and go on from it to the bit.

    Saved are weights, statistics, the optimizer with its averages, the metrics of the epoch so
    far, the seeds of dropout and the like, Python's and NumPy's generators, what the other
    callbacks remember, and the position in the data. With data that depend only on the step, and
    operations that are deterministic, training ends with the weights of one never stopped.

    A callback's memory is what its `get_state()` returns, given back to its `set_state()`;
    without these it is its numbers, arrays and lists. Saved and put back is at the same moment,
    before a step, when all callbacks that stand before this one know that it begins.

    ```
    resume = Resume(directory, batches, steps_per_epoch=100, callbacks=callbacks)
    model.fit(
        batches(resume.step), steps_per_epoch=100, initial_epoch=resume.epoch, epochs=90,
        callbacks=[*callbacks, resume],
    )
    ```

    A resumed epoch is shorter: its `batch` counts from 0 again. A checkpoint is written beside its
    place, flushed and renamed; two are kept. A damaged one is passed over, with a message. Where
    one cannot be written, training goes on, says so, and tries again when the next is due.

    Args:
        directory: of the checkpoints.
        batches: steps taken -> the data of all steps from there on.
        steps_per_epoch: as `fit` gets it.
        callbacks: those that `fit` gets before this one.
        seconds: from one checkpoint to the next; longer where writing one takes long, so that at
            most a two-hundredth of the time goes into it. None: only by steps.
        steps: from one checkpoint to the next. None: only by time.

    Attributes:
        step: steps taken, over all epochs.
        epoch: whole epochs taken.

    Raises:
        CheckpointError: there are checkpoints, and none is whole.
    """

    def __init__(
        self,
        directory: str | Path,
        batches: Callable[[int], Iterable[Any]],
        *,
        steps_per_epoch: int,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        seconds: float | None = 60.0,
        steps: int | None = None,
    ) -> None:
        super().__init__()
        self.directory = Path(directory)
        self.batches, self.steps_per_epoch = batches, steps_per_epoch
        self.callbacks = callbacks
        self.seconds, self.steps = seconds, steps
        self.snapshot: Snapshot | None = self._read_latest()  # the latest, in memory
        self.step = self.snapshot.step if self.snapshot else 0
        self.resumed_at = self.step
        self.saved = {self.step} if self.snapshot else set[int]()  # steps whose files are whole
        self._seconds_before = self.snapshot.seconds if self.snapshot else 0.0
        self._began = time.monotonic()
        self._first_batch = 0
        self._is_ready = False
        self._due = 0.0  # on the monotonic clock

    @property
    def training_seconds(self) -> float:
        """Seconds of training, those before the kills included."""
        return self._seconds_before + time.monotonic() - self._began

    @property
    def epoch(self) -> int:
        """Whole epochs taken."""
        return self.step // self.steps_per_epoch

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Make the model's variables, and give them the values that were saved."""
        build(self.model, next(iter(self.batches(self.step))))
        self._is_ready, self._began = False, time.monotonic()
        if self.snapshot:
            put_back(self.snapshot, self.model)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Go on from the saved state, or save one, if it is time."""
        self._first_batch = batch
        position = self.step % self.steps_per_epoch
        if not self._is_ready:
            self._begin()
        elif self._is_due():
            self.save()
        elif position in (0, self.steps_per_epoch - 1):
            self.snapshot = self.take()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Count; with `steps_per_execution` many steps are one call."""
        self.step += batch - self._first_batch + 1
        rest = -self.resumed_at % self.steps_per_epoch
        if rest and self.step == self.resumed_at + rest and not self.model.stop_training:
            self.model.stop_training = EPOCH_IS_OVER

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Have the next epoch begin, after one that was resumed."""
        if self.model.stop_training is EPOCH_IS_OVER:
            self.model.stop_training = False

    def take(self) -> Snapshot:
        """Copy the state as it is now, between two steps."""
        callbacks = [*self.callbacks, self.model.history]
        return take(self.model, callbacks, self.step, self.training_seconds)

    def save(self) -> None:
        """Write the state as it is now, between two steps, unless it has ceased to be finite."""
        start = time.monotonic()
        snapshot = self.take()
        if snapshot.is_finite():
            self.snapshot = snapshot
            self.save_snapshot()
        cost = time.monotonic() - start
        self._due = start + max(self.seconds or 0.0, cost / COST)

    def save_snapshot(self) -> None:
        """Write the latest state that is in memory.

        In an evaluation it is that before the epoch's last step: after that one step the
        evaluation is made again.
        """
        if self.snapshot and self.snapshot.step not in self.saved:
            self._write(self.snapshot)

    def _begin(self) -> None:
        self._is_ready = True
        if self.snapshot:
            # The weights again, since a callback may have changed them; and since `fit` has reset
            # the metrics.
            put_back(self.snapshot, self.model)
            put_back_callbacks(self.snapshot, [*self.callbacks, self.model.history])
            self._due = time.monotonic() + (self.seconds or 0.0)
        else:
            self.save()  # a full disk shows now, not after the first hours

    def _is_due(self) -> bool:
        if self.steps and self.step % self.steps == 0:
            return True
        return self.seconds is not None and time.monotonic() >= self._due

    def _write(self, snapshot: Snapshot) -> None:
        path = checkpoint_path(self.directory, snapshot.step)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            write_checkpoint(path, snapshot.as_dict())
        except OSError as error:
            kept = f"the last one is of step {max(self.saved)}" if self.saved else "there is none"
            say(
                f"cannot write the checkpoint {path}: {error.strerror or error}; {kept}. "
                "Training goes on from memory, and tries again when the next one is due."
            )
            return
        self.saved.add(snapshot.step)
        self.saved = set(sorted(self.saved)[-KEPT:])
        kept_paths = {checkpoint_path(self.directory, step) for step in self.saved}
        for old in self.directory.glob(f"*{SUFFIX}"):  # what a kill left half-written too
            if old not in kept_paths:
                old.unlink(missing_ok=True)

    def _read_latest(self) -> Snapshot | None:
        paths = list_checkpoints(self.directory)
        for number, path in enumerate(paths, start=1):
            try:
                return Snapshot(**read_checkpoint(path))
            except CheckpointError as error:
                if number == len(paths):
                    raise CheckpointError(
                        f"{error}; no checkpoint in {self.directory} is whole: remove them to "
                        "train from the beginning"
                    ) from error
                say(f"{error}; going on from the older {paths[number]}")
        return None
