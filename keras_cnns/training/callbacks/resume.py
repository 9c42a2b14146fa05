"""Save the state of a training, and resume it after the process was killed."""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_cnns.keras_internals import symbolic_build
from keras_cnns.messages import print_message
from keras_cnns.training.callbacks.step_counter import StepCounter
from keras_cnns.training.checkpoint import (
    SUFFIX,
    CheckpointError,
    checkpoint_path,
    list_checkpoints,
    read_checkpoint,
    write_checkpoint,
)
from keras_cnns.training.snapshot import (
    Snapshot,
    capture,
    plain_attributes,
    restore,
    restore_callbacks,
)

_MAX_CHECKPOINTS = 2  # older checkpoints are removed
COST = 0.005  # checkpoints are written for at most this fraction of the training time

# The value of `model.stop_training` that ends a resumed epoch. It is truthy, so that Keras leaves
# its loop over the steps. It is not True, the value with which other callbacks end the training.
_EPOCH_IS_OVER = "the rest of the epoch that was resumed is over"


class Resume(StepCounter):
    """Save the whole state of a training regularly, and resume from it bit for bit.

    The state consists of the weights and statistics, the optimizer with its averages, the metrics
    of the epoch so far, the seeds of dropout and other layers, Python's and NumPy's random
    generators, the state of the other callbacks, and the step. If the data depend only on the step
    and the operations are deterministic, a resumed training ends with the same weights as an
    uninterrupted one.

    The state of a callback is the result of its method `get_state()`, which is later passed to its
    method `set_state()`. If a callback lacks these methods, its state consists of the attributes
    that are numbers, arrays or lists and have changed since training began. Unchanged attributes
    are settings, such as the `patience` of `EarlyStopping`, and may have new values in a resumed
    training. State is captured and restored in `on_train_batch_begin`, after the preceding
    callbacks have run the same method.

    The optimizer's learning rate is also part of the state.

    The model may have been built again with other automatic layer names (`dense_3` for `dense`),
    as in a loop over folds or a notebook cell. Layers are then matched by structure.

    ```
    resume = Resume(directory, batches, steps_per_epoch=100, callbacks=callbacks)
    model.fit(
        batches(resume.step), steps_per_epoch=100, initial_epoch=resume.epoch, epochs=90,
        callbacks=[*callbacks, resume],
    )
    ```

    A resumed epoch has only the remaining steps, and its `batch` counts from 0 again. A checkpoint
    is written to a temporary file, flushed to disk and renamed. The latest two checkpoints are
    kept. A damaged checkpoint is skipped with a message. If a checkpoint cannot be written, the
    error is logged, training continues, and writing is tried again when the next checkpoint is due.

    Args:
        directory: the directory of the checkpoints.
        batches: a function that takes a number of steps, and returns the data of all later steps.
        steps_per_epoch: as in `fit`.
        callbacks: the callbacks whose state is saved; they precede this callback in `fit`'s list.
        seconds: time between checkpoints, which is extended if writing is slow, so that writing
            takes at most 0.5 % of the time. If None, only `steps` determines when checkpoints are
            written.
        steps: steps between checkpoints. With `steps_per_execution` above 1, a checkpoint is
            written after each execution that passes a multiple of this number. If None, only
            `seconds` determines when checkpoints are written.

    Attributes:
        step: number of steps taken, over all epochs.
        epoch: number of finished epochs.

    Raises:
        CheckpointError: there are checkpoints, and all of them are damaged.
        ValueError: `steps_per_epoch` is not a multiple of the model's `steps_per_execution`. The
            error is raised when training begins, because Keras' epochs would have another length.
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
        self.snapshot: Snapshot | None = self._read_latest()  # the latest snapshot, in memory
        self.step = self.snapshot.step if self.snapshot else 0
        self.resumed_at = self.step
        # The steps whose checkpoints have been written completely.
        self.saved = {self.step} if self.snapshot else set[int]()
        self._seconds_before = self.snapshot.seconds if self.snapshot else 0.0
        self._began = time.monotonic()
        self._is_ready = False
        self._due = 0.0  # time of the monotonic clock at which the next checkpoint is due
        self._last_save = self.step  # the step of the last attempt to write a checkpoint
        self._initial: list[dict[str, Any]] = []  # attributes of the callbacks when training began

    @property
    def training_seconds(self) -> float:
        """Seconds of training, including those in earlier processes."""
        return self._seconds_before + time.monotonic() - self._began

    @property
    def epoch(self) -> int:
        """Number of finished epochs."""
        return self.step // self.steps_per_epoch

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Create the model's variables, and assign the saved values."""
        per_execution = self.model.steps_per_execution
        if not isinstance(per_execution, int) or self.steps_per_epoch % per_execution:
            raise ValueError(
                f"steps_per_epoch is {self.steps_per_epoch}; Resume needs a multiple of the "
                f"model's steps_per_execution, which is {per_execution!r}"
            )
        self._initial = [plain_attributes(callback) for callback in self.callbacks]
        # Attributes in the snapshot are part of the state, even if the callback was used before and
        # already has the saved values.
        if self.snapshot:
            for attributes, entry in zip(self._initial, self.snapshot.callbacks, strict=False):
                for name in entry["state"]:
                    attributes.pop(name, None)
        symbolic_build(self.model, next(iter(self.batches(self.step))))
        self._is_ready, self._began = False, time.monotonic()
        if self.snapshot:
            restore(self.snapshot, self.model)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Resume from the saved state, or save the state if a checkpoint is due."""
        super().on_train_batch_begin(batch, logs)
        index = self.step % self.steps_per_epoch
        is_last = index + self.model.steps_per_execution >= self.steps_per_epoch
        if not self._is_ready:
            self._begin()
        elif self._is_due():
            self.save()
        elif index == 0 or is_last:
            self.snapshot = self.capture()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Count the steps; end a resumed epoch after its last step."""
        super().on_train_batch_end(batch, logs)
        rest = -self.resumed_at % self.steps_per_epoch
        if rest and self.step == self.resumed_at + rest and not self.model.stop_training:
            self.model.stop_training = _EPOCH_IS_OVER

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Continue with the next epoch after a resumed one."""
        if self.model.stop_training is _EPOCH_IS_OVER:
            self.model.stop_training = False

    def capture(self) -> Snapshot:
        """Copy the current state, between two steps."""
        callbacks = [*self.callbacks, self.model.history]
        return capture(self.model, callbacks, self.step, self.training_seconds, self._initial)

    def save(self) -> None:
        """Write the current state, between two steps, if it is finite."""
        start = time.monotonic()
        self._last_save = self.step
        snapshot = self.capture()
        if snapshot.is_finite():
            self.snapshot = snapshot
            self.save_snapshot()
        cost = time.monotonic() - start
        self._due = start + max(self.seconds or 0.0, cost / COST)

    def save_snapshot(self) -> None:
        """Write the snapshot in memory to a checkpoint.

        During an evaluation, this snapshot was captured before the last step of the epoch, so a
        resumed training repeats that step and then the evaluation.
        """
        if self.snapshot and self.snapshot.step not in self.saved:
            self._write(self.snapshot)

    def _begin(self) -> None:
        self._is_ready = True
        if self.snapshot:
            # Assign weights and metrics again: a callback may have changed the weights, and `fit`
            # has reset the metrics.
            restore(self.snapshot, self.model)
            restore_callbacks(self.snapshot, [*self.callbacks, self.model.history])
            self._due = time.monotonic() + (self.seconds or 0.0)
        else:
            self.save()  # reports a full disk now and not after hours

    def _is_due(self) -> bool:
        if self.steps and self.step // self.steps > self._last_save // self.steps:
            return True
        return self.seconds is not None and time.monotonic() >= self._due

    def _write(self, snapshot: Snapshot) -> None:
        path = checkpoint_path(self.directory, snapshot.step)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            write_checkpoint(path, snapshot.as_dict())
        except OSError as error:
            kept = (
                f"the latest checkpoint is that of step {max(self.saved)}"
                if self.saved
                else "there is no checkpoint yet"
            )
            print_message(
                f"cannot write the checkpoint {path}: {error.strerror or error}; {kept}. "
                "Training continues, and tries again when the next checkpoint is due."
            )
            return
        self.saved.add(snapshot.step)
        self.saved = set(sorted(self.saved)[-_MAX_CHECKPOINTS:])
        kept_paths = {checkpoint_path(self.directory, step) for step in self.saved}
        for old in self.directory.glob(f"*{SUFFIX}"):  # includes partially written files
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
                        f"{error}; no checkpoint in {self.directory} is intact: remove all of them "
                        "to train from the beginning"
                    ) from error
                print_message(f"{error}; resuming from the older checkpoint {paths[number]}")
        return None
