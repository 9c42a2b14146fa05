"""A loss that is no number ends the training, and says where it came from."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_cnns.training.callbacks.resume import Resume
from keras_cnns.training.snapshot import put_back


class DivergedError(RuntimeError):
    """The loss is NaN or infinite; the message names the step, the rate and the layer."""


class StopOnDivergence(keras.callbacks.Callback):
    """Stop when the loss is NaN or infinite, and name the first layer whose output is.

    When the loss shows it, the step has already spoilt every weight. So the weights of the latest
    state in memory, at most an epoch old, are put back, the steps since then are taken again, and
    the net is called layer by layer on the batch that did it. Afterwards the model has the
    weights of that good state. The checkpoints stay as they are.

    Args:
        resume: what has that state and the data; stands before this callback.

    Raises:
        DivergedError: the loss of a step was not finite.
    """

    def __init__(self, resume: Resume) -> None:
        super().__init__()
        self.resume = resume

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Look at the loss: its mean over the epoch, in which one NaN stays."""
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            raise DivergedError(self._explain(float(loss)))

    def _explain(self, loss: float) -> str:
        resume = self.resume
        epoch, step = divmod(resume.step - 1, resume.steps_per_epoch)
        rate, cause = self._find_cause(resume.step - 1)
        saved = max(resume.saved, default=None)
        kept = "no checkpoint was written" if saved is None else f"kept is that of step {saved}"
        return (
            f"the loss is {loss} at step {resume.step} (epoch {epoch + 1}, step {step + 1} of "
            f"{resume.steps_per_epoch}), with the learning rate {rate:.4g}; {cause}; {kept}"
        )

    def _find_cause(self, step: int) -> tuple[float, str]:
        """Take the steps before that one again; return its rate and what is not finite in it."""
        good = self.resume.snapshot
        assert good is not None  # one is taken before the first step
        put_back(good, self.model)
        batches = iter(self.resume.batches(good.step))
        for _ in range(good.step, step):
            self.model.train_on_batch(*as_arrays(next(batches)))
        rate = float(ops.convert_to_numpy(self.model.optimizer.learning_rate))
        x = as_arrays(next(batches))[0]
        layer = first_layer_not_finite(self.model, x)
        put_back(good, self.model)
        if not all(is_finite(each) for each in tree.flatten(x)):
            return rate, "the batch itself holds values that are not finite"
        if layer is None:
            return rate, "every layer's output is finite, but not the loss that they make"
        kind = type(layer).__name__
        return rate, f"the first layer whose output is not finite is {layer.name} ({kind})"


def as_arrays(batch: Any) -> Any:
    """Return (x, y) or (x, y, sample_weight) as every backend takes them."""
    return tree.map_structure(ops.convert_to_numpy, batch)


def first_layer_not_finite(model: keras.Model, x: Any) -> Any:
    """Call a model on a batch as in training; return the first layer with NaN or infinite outputs.

    Layers inside of layers come before those around them. None: every output is finite.
    """
    found: list[Any] = []

    def note(layer: Any, output: Any) -> None:
        if not is_finite(output):
            found.append(layer)

    with watching(model, note):
        model(x, training=True)
    return found[0] if found else None


@contextmanager
def watching(model: keras.Model, note: Any) -> Iterator[None]:
    """Have every layer's outputs noted, in the order of computation."""
    layers = list(model._flatten_layers(include_self=False))

    def watch(layer: Any) -> None:
        call = layer.call

        def watched(*args: Any, **kwargs: Any) -> Any:
            outputs = call(*args, **kwargs)
            for each in tree.flatten(outputs):
                note(layer, each)
            return outputs

        layer.call = watched

    for layer in layers:
        watch(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.call


def is_finite(tensor: Any) -> bool:
    """Return whether every value is a number."""
    values = ops.convert_to_numpy(tensor)
    return values.dtype.kind in "biuSU" or bool(np.isfinite(values).all())
