"""Stop a training whose loss is not finite, and report the cause."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_cnns.keras_internals import flatten_layers
from keras_cnns.training.callbacks.resume import Resume
from keras_cnns.training.layer_outputs import observed
from keras_cnns.training.snapshot import restore
from keras_cnns.training.variables import current_learning_rate, fetch_variables


class DivergedError(RuntimeError):
    """The loss is NaN or infinite; the message gives the step, the learning rate and the cause."""


class StopOnDivergence(keras.callbacks.Callback):
    """Stop if the loss is NaN or infinite, and report the first layer with such outputs.

    When the loss is not finite, the step has already spoilt all weights. With a `Resume`, the
    callback restores the latest snapshot in memory, which is at most one epoch old. It repeats the
    steps since then, and calls the model layer by layer on the batch that caused the divergence.
    Afterwards, the model has the weights of the snapshot. The checkpoints are not changed. The
    repeated steps do not use the argument `class_weight` of `fit`, which is unknown here.

    Without a `Resume`, nothing can be restored: the message names the step, the learning rate and
    the first layer whose weights are not finite.

    Args:
        resume: the callback with the snapshot and the data; it precedes this callback in `fit`'s
            list.

    Raises:
        DivergedError: the loss of a step is not finite.
    """

    def __init__(self, resume: Resume | None = None) -> None:
        super().__init__()
        self.resume = resume
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Record the epoch, for the message."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Check the loss; it is a mean over the epoch, so it stays NaN after one NaN."""
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            explanation = self._explain_weights(batch) if self.resume is None else self._repeat()
            raise DivergedError(f"the loss is {loss} at {explanation}")

    def _explain_weights(self, batch: int) -> str:
        """Return the step, the learning rate and the first layer whose weights are not finite."""
        fetch_variables(self.model)
        spoilt = (
            layer.name
            for layer in flatten_layers(self.model)
            if not all(_is_finite(weight) for weight in layer.weights)
        )
        first = next(spoilt, None)
        cause = "all weights are finite" if first is None else f"weights of {first} are not finite"
        return (
            f"step {batch + 1} of epoch {self._epoch + 1}, with the learning rate "
            f"{current_learning_rate(self.model):.4g}; {cause}. "
            "To find the layer that caused it, use StopOnDivergence(resume), where `resume` is a "
            "Resume that precedes it in the callbacks"
        )

    def _repeat(self) -> str:
        """Repeat the steps since the snapshot; return which of them diverged, and the cause."""
        resume = self.resume
        assert resume is not None
        good = resume.snapshot
        assert good is not None  # a snapshot is captured before the first step
        step = resume.step - 1
        steps_per_execution = self.model.steps_per_execution
        # The divergence may have begun in any step of the last execution.
        if steps_per_execution > 1:
            self._execute(1)
            restore(good, self.model)
            step = self._train(resume.batches(good.step), good.step, step)
        restore(good, self.model)
        batches = iter(resume.batches(good.step))
        self._train(batches, good.step, step - 1)
        learning_rate = current_learning_rate(self.model)
        x = _as_arrays(next(batches))[0]
        layer = _first_layer_not_finite(self.model, x)
        restore(good, self.model)
        if steps_per_execution > 1:
            self._execute(steps_per_execution)
        cause = "every layer's output is finite, but the loss is not"
        if not all(_is_finite(each) for each in tree.flatten(x)):
            cause = "the batch itself holds values that are not finite"
        elif layer is not None:
            kind = type(layer).__name__
            cause = f"the first layer whose output is not finite is {layer.name} ({kind})"
        epoch, position = divmod(step, resume.steps_per_epoch)
        saved = max(resume.saved, default=None)
        kept = (
            "no checkpoint was written"
            if saved is None
            else f"the checkpoint of step {saved} is kept"
        )
        return (
            f"step {step + 1} (epoch {epoch + 1}, step {position + 1} of "
            f"{resume.steps_per_epoch}), with the learning rate {learning_rate:.4g}; {cause}; "
            f"{kept}"
        )

    def _execute(self, steps: int) -> None:
        """Make the training function take this number of steps per call."""
        self.model.steps_per_execution = steps
        self.model.make_train_function(force=True)

    def _train(self, batches: Any, start: int, last: int) -> int:
        """Take the steps from `start` to `last`; end at the first loss that is not finite.

        Return the last step that was taken.
        """
        iterator = iter(batches)
        for step in range(start, last + 1):
            logs = self.model.train_on_batch(*_as_arrays(next(iterator)), return_dict=True)
            if not math.isfinite(float(logs["loss"])):
                return step
        return last


def _as_arrays(batch: Any) -> Any:
    """Return (x, y) or (x, y, sample_weight) as NumPy arrays, which every backend accepts."""
    return tree.map_structure(ops.convert_to_numpy, batch)


def _first_layer_not_finite(model: keras.Model, x: Any) -> Any:
    """Call a model on a batch as in training; return the first layer with NaN or infinite outputs.

    Nested layers are checked before the layers that contain them. The result is None if every
    output is finite.
    """
    found: list[Any] = []

    def observe(layer: keras.layers.Layer, output: Any) -> None:
        if not all(_is_finite(each) for each in tree.flatten(output)):
            found.append(layer)

    with observed(flatten_layers(model), observe):
        model(x, training=True)
    return found[0] if found else None


def _is_finite(tensor: Any) -> bool:
    """Return whether no value is NaN or infinite."""
    values = ops.convert_to_numpy(tensor)
    return values.dtype.kind in "biuSU" or bool(np.isfinite(values).all())
