"""A process that trains a small network again and again, each time in a child that may be killed.

    python survivor.py PLANS.json

TensorFlow is imported once, and each child is a fork of this process. A plan is a dict with the
`directory` of the training, and at most one of these ends:

- SIGKILL: `after` the given number of steps, and `milliseconds` more;
- SIGKILL: after `writing` "half" of the `nth` checkpoint, or the "whole" but not yet its name;
- SIGTERM: to `terminate` "training" or "evaluation", when it begins for the `nth` time.

The statuses of the children are printed as JSON, in the form of `subprocess`: -9 for SIGKILL.
"""

import json
import os
import random
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from keras_cnns import files
from keras_cnns.models.batch_normalization import BatchNormalization
from keras_cnns.optimizers import Momentum
from keras_cnns.training.callbacks import (
    AverageWeights,
    Resume,
    SaveBest,
    SaveHistory,
    StopOnDivergence,
    StopOnSignal,
)
from keras_cnns.training.checkpoint import write_checkpoint
from keras_cnns.training.snapshot import capture

STEPS, EPOCHS, BATCH = 9, 12, 8


class Dice(keras.callbacks.Callback):
    """Remembers what Python's and NumPy's generators gave it."""

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.thrown: list[float] = []

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.thrown += [random.random(), np.random.random()]


class Killer(keras.callbacks.Callback):
    """Kills its own process after some steps and some time."""

    def __init__(self, after: int, milliseconds: float) -> None:
        super().__init__()
        self.left, self.seconds = after, milliseconds / 1000

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.left -= 1
        if self.left == 0:
            threading.Timer(self.seconds, kill).start()


class Terminator(keras.callbacks.Callback):
    """Asks its own process to end."""

    def __init__(self, phase: str, nth: int) -> None:
        super().__init__()
        self.phase, self.left = phase, nth

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._count("training")

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._count("evaluation")

    def _count(self, phase: str) -> None:
        if phase == self.phase:
            self.left -= 1
            if self.left == 0:  # once: a second one would act at once
                signal.raise_signal(signal.SIGTERM)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_while_writing(number: int, what: str) -> None:
    """Kill this process when its nth checkpoint is written, half of it or all of it."""
    flush = files.flush
    written: list[Path] = []

    def flush_or_die(path: Path) -> None:
        if files.PARTIAL in path.name and path.suffix == ".checkpoint":
            written.append(path)
            if len(written) == number:
                if what == "half":
                    os.truncate(path, path.stat().st_size // 2)
                kill()
        flush(path)

    files.flush = flush_or_die


def make_model() -> keras.Model:
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, padding="same", name="conv")(inputs)
    x = keras.layers.ReLU(name="relu")(BatchNormalization(name="norm")(x))
    x = keras.layers.Dropout(0.2, name="dropout1")(keras.layers.Flatten(name="flatten")(x))
    x = keras.layers.Dropout(0.2, name="dropout2")(keras.layers.Dense(8, name="hidden")(x))
    model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(x))
    model.compile(
        Momentum(0.2, 0.9, weight_decay=1e-4, use_ema=True, ema_momentum=0.8),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")],
    )
    return model


def make_batches() -> tuple[Callable[[int], tf.data.Dataset], Any]:
    """Return the training data from any step on, and those of validation."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 96)
    images = generator.normal(size=(96, 8, 8, 1)) + labels[:, None, None, None] * 0.1
    images = images.astype(np.float32)
    order = [generator.permutation(STEPS * BATCH) for _ in range(EPOCHS)]
    indices = np.concatenate(order).reshape(EPOCHS * STEPS, BATCH)

    def batches(step: int) -> tf.data.Dataset:
        rows = indices[step:]
        return tf.data.Dataset.from_tensor_slices((images[rows], labels[rows]))

    return batches, (images[STEPS * BATCH :], labels[STEPS * BATCH :])


def train(directory: Path, killers: list[keras.callbacks.Callback]) -> None:
    keras.utils.set_random_seed(1)
    tf.config.experimental.enable_op_determinism()
    model = make_model()
    batches, validation = make_batches()
    callbacks = [
        AverageWeights(),
        keras.callbacks.EarlyStopping("val_loss", patience=8, restore_best_weights=True),
        keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, min_delta=0.01),
        SaveBest(directory / "model.keras", "val_accuracy"),
        SaveHistory(directory / "history.csv"),
        Dice(),
    ]
    resume = Resume(
        directory / "checkpoints", batches, steps_per_epoch=STEPS, callbacks=callbacks, steps=4
    )
    guards = [StopOnSignal(resume), StopOnDivergence(resume)]
    model.fit(
        batches(resume.step),
        steps_per_epoch=STEPS,
        initial_epoch=resume.epoch,
        epochs=EPOCHS,
        validation_data=validation,
        callbacks=[*callbacks, resume, *guards, *killers],
        shuffle=False,
        verbose=0,
    )
    end = capture(model, [*callbacks, model.history], resume.step, seconds=0.0)
    write_checkpoint(directory / "end", end.as_dict())


def run(plan: dict[str, Any]) -> int:
    """Train in a child; return its status as `subprocess` does."""
    child = os.fork()
    if child == 0:
        try:
            if "writing" in plan:
                kill_while_writing(plan["nth"], plan["writing"])
            killers: list[keras.callbacks.Callback] = []
            if "after" in plan:
                killers = [Killer(plan["after"], plan["milliseconds"])]
            if "terminate" in plan:
                killers = [Terminator(plan["terminate"], plan["nth"])]
            train(Path(plan["directory"]), killers)
        except SystemExit as ended:
            os._exit(int(ended.code or 0))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    print(json.dumps([run(plan) for plan in json.loads(Path(sys.argv[1]).read_text())]))
