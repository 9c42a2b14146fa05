"""Metrics and diagnostics for TensorBoard."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_cnns.messages import print_message
from keras_cnns.runs.logs import by_main_output
from keras_cnns.training.callbacks.diagnostic import Diagnostic
from keras_cnns.training.callbacks.diagnostics_log import new_metrics
from keras_cnns.training.callbacks.step_counter import StepCounter


class TensorBoard(StepCounter):
    """Write diagnostics and the logs of each epoch as scalars for TensorBoard.

    The x axis of each chart is the training step. The `loss` of the logs is written as `epoch/loss`
    of the run `train`, and the `val_loss` as `epoch/loss` of the run `validation`, so that one
    chart shows both losses. For a model with several outputs, `epoch/loss` and `epoch/accuracy`
    belong to the main output, and the weighted sum of the losses is `epoch/loss_sum`. The charts of
    models with and without auxiliary outputs therefore show the same quantities. A metric
    `dead_relu/conv1` is in the chart `conv1` of the group `dead_relu`. This callback needs
    TensorFlow, but not TensorBoard itself. If the disk is full, a warning is printed, and values
    are left out.

    Args:
        directory: the directory of the files; `tensorboard --logdir` shows it.
        diagnostics: the diagnostics to write; they precede this callback in `fit`'s list.
    """

    def __init__(self, directory: str | Path, diagnostics: Sequence[Diagnostic] = ()) -> None:
        super().__init__()
        self.directory, self.diagnostics = Path(directory), diagnostics
        self._writers: dict[str, Any] = {}
        self._has_warned = False

    def get_state(self) -> dict[str, Any]:
        """Return the number of steps."""
        return {"step": self.step}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a number of steps."""
        self.step = state["step"]

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the diagnostics that were measured in this step."""
        self._write("train", new_metrics(self.diagnostics), self.step)
        super().on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the losses and metrics of training and of validation."""
        measured = {name for each in self.diagnostics for name in each.metrics}
        runs: dict[str, dict[str, float]] = {"train": {}, "validation": {}}
        for name, value in by_main_output(logs or {}).items():
            if name not in measured:
                run = "validation" if name.startswith("val_") else "train"
                runs[run][f"epoch/{name.removeprefix('val_')}"] = value
        for run, scalars in runs.items():
            self._write(run, scalars, self.step, flush=True)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Close the files."""
        writers, self._writers = self._writers, {}
        for writer in writers.values():
            # If the disk is full, a warning has already been printed.
            with contextlib.suppress(Exception):
                writer.close()

    def _write(self, run: str, scalars: dict[str, float], step: int, flush: bool = False) -> None:
        if not scalars or (self._has_warned and run not in self._writers and not flush):
            return  # after the warning, try to create a missing file only once in each epoch
        import tensorflow as tf

        summary = tf.compat.v1.Summary()
        for name, value in scalars.items():
            summary.value.add(tag=name, simple_value=value)
        try:
            if run not in self._writers:
                self._writers[run] = tf.summary.create_file_writer(str(self.directory / run))
            # Write all scalars in one call. tf.summary.scalar would need a call for each of them,
            # and the package tensorboard.
            with self._writers[run].as_default():
                tf.summary.experimental.write_raw_pb(summary.SerializeToString(), step)
                if flush:
                    self._writers[run].flush()
        except (OSError, tf.errors.OpError) as error:
            if not self._has_warned:
                print_message(
                    f"cannot write {self.directory}: {error}; the charts in TensorBoard will lack "
                    "some steps"
                )
            self._has_warned = True
