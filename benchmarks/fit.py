"""Images per second of `keras-cnns train` within an epoch, compared with its compiled step alone.

    python benchmarks/fit.py [--quick] [--json FILE] [--case NAME] [--rounds N]

Two subjects run in turn within one process. "ours" is the training as the command runs it, with the
pipeline, the augmentation, the callbacks, and the diagnostics at their default interval. "bare" is
a loop of the same compiled step on one batch in memory. A ratio is our images per second divided by
those of the bare loop. The ideal ratio is 1, and the aim is at least 0.97.

The end of an epoch, with the evaluation and the best model's file, is not measured, because its
fraction of the time depends on the length of the epoch. The duration of a checkpoint is measured
separately. Our images per second are reduced by the fraction of the time that checkpoints take at
their default interval.

The last lines of the output give the seconds from the last step of a `fit` to its return: with
tf.data's autotuning, which is TensorFlow's default, and without it, as in all pipelines of this
project.
"""

import argparse
import contextlib
import inspect
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf
from batches import repeat_batch
from turns import ratios, write_rows

from keras_cnns.recipes import Recipe, parse_recipe
from keras_cnns.training import train
from keras_cnns.training.callbacks import Resume
from keras_cnns.training.callbacks.diagnostic import INTERVAL
from keras_cnns.training.callbacks.resume import COST

# The first steps of a turn are not measured, because they use batches that were prefetched during
# the turn of the other subject.
SETTLE = 5
STEPS = SETTLE + INTERVAL + 1  # steps in an epoch
BARE_STEPS = 15  # steps in a turn of the bare loop
NEVER = 1e9  # seconds between checkpoints, so that none is written
MEAN, STD = [123.7, 116.3, 103.5], [58.4, 57.1, 57.4]

# case -> the recipe's sections
CASES: dict[str, dict[str, Any]] = {
    "resnet20, 32x32, batch 128": {
        "model": {"name": "resnet20"},
        "data": {"image_size": 32, "resize_shorter": 32, "num_examples": 128 * STEPS},
        "augmentation": {"pad_and_crop": 4, "horizontal_flip": True},
        "training": {"batch_size": 128, "epochs": 100},
    },
    "resnet50, 224x224, batch 16": {
        "model": {"name": "resnet50"},
        "data": {"image_size": 224, "resize_shorter": 224, "num_examples": 16 * STEPS},
        "augmentation": {"pad_and_crop": 28, "horizontal_flip": True},
        "training": {"batch_size": 16, "epochs": 100},
    },
}


class MeasuredError(Exception):
    """Ends a training after enough measurements."""


@dataclass(eq=False)
class TakeTurns(keras.callbacks.Callback):
    """Measure steps of the training, and between them, steps of the bare loop."""

    batch_size: int
    rounds: int
    ours: list[float] = field(default_factory=list)  # for each round, the mean seconds of a step
    bare: list[float] = field(default_factory=list)  # the same for the bare loop
    checkpoint: float = 0.0  # seconds to write a checkpoint

    def __post_init__(self) -> None:
        super().__init__()

    def get_state(self) -> dict[str, Any]:
        return {}

    def set_state(self, state: Mapping[str, Any]) -> None: ...

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if batch == SETTLE:
            self.start = time.perf_counter()
        elif batch == SETTLE + INTERVAL:
            self.ours.append((time.perf_counter() - self.start) / INTERVAL)
            self.bare.append(self.time_bare_steps())
            if len(self.ours) == self.rounds:
                self.checkpoint = self.time_checkpoint()
                raise MeasuredError

    def time_bare_steps(self) -> float:
        """Return the mean seconds of a step of the bare loop."""
        _, *shape = self.model.inputs[0].shape
        images = tf.cast(tf.random.uniform([self.batch_size, *shape], 0, 256, tf.int32), tf.uint8)
        labels = tf.zeros([self.batch_size], tf.int64)
        data = itertools.repeat((images, labels))
        for _ in range(SETTLE):
            self.model.train_function(data)
        start = time.perf_counter()
        for _ in range(BARE_STEPS):
            self.model.train_function(data)
        tf.test.experimental.sync_devices()
        return (time.perf_counter() - start) / BARE_STEPS

    def time_checkpoint(self) -> float:
        """Return the seconds that it takes to write a checkpoint."""
        with tempfile.TemporaryDirectory() as directory:
            resume = Resume(directory, lambda _: (), steps_per_epoch=1)
            resume.set_model(self.model)
            start = time.perf_counter()
            resume.save()
            return time.perf_counter() - start


def measure(case: str, rounds: int) -> dict[str, Any]:
    recipe = make_recipe(CASES[case])
    turns = TakeTurns(recipe.training.batch_size, rounds)
    with tempfile.TemporaryDirectory() as directory, contextlib.suppress(MeasuredError):
        train(recipe, Path(directory) / "run", callbacks=[turns], checkpoint_seconds=NEVER)
    interval = inspect.signature(train).parameters["checkpoint_seconds"].default
    # The fraction of the time that is left for training besides the checkpoints.
    training = 1 - turns.checkpoint / max(interval, turns.checkpoint / COST)
    row = {"case": case, "subject": "keras-cnns train", "peer": "the compiled step alone"}
    row |= ratios([training * bare for bare in turns.bare], turns.ours)
    ours, bare = (
        recipe.training.batch_size / statistics.median(t) for t in (turns.ours, turns.bare)
    )
    print(
        f"{case:<30}{ours * training:>10.1f}{bare:>10.1f}{turns.checkpoint:>13.2f}"
        f"{row['ratio']:>8.3f}{row['low']:>7.3f}{row['high']:>7.3f}",
        flush=True,
    )
    return row


def time_end(data: tf.data.Dataset, model: keras.Model) -> tuple[float, float]:
    """Return the seconds of all steps of a `fit`, and those from its last step to its return."""
    ends = [time.perf_counter()]
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: ends.append(time.perf_counter())
    )
    model.fit(data, verbose=0, callbacks=[note])
    return ends[-1] - ends[0], time.perf_counter() - ends[-1]


def measure_end(steps: int) -> None:
    """Print how long the end of a `fit` takes with and without tf.data's autotuning."""
    size, count = 64, 32
    inputs = keras.Input((size, size, 3))
    features = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(64, 5)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(10)(features))
    model.compile("sgd", "mse")
    batch = tf.zeros((count, size, size, 3)), tf.zeros((count, 10))
    cases = {
        "with autotuning": tf.data.Dataset.from_tensors(batch).repeat(steps),
        "without it": repeat_batch(*batch, steps),
    }
    for name, data in cases.items():
        time_end(data.take(1), model)  # traces the step
        seconds, end = time_end(data, model)
        print(f"end of fit() {name + ':':<17}{end:>7.2f} s, after {seconds:.2f} s of steps")


def make_recipe(sections: dict[str, Any]) -> Recipe:
    data = {"name": "shapes", "channels": 3, "mean": MEAN, "std": STD, **sections["data"]}
    optimizer = {"learning_rate": 0.01, "weight_decay": 1e-4}
    return parse_recipe({**sections, "data": data, "optimizer": optimizer})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round of each case")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file")
    parser.add_argument(
        "--case", action="append", choices=CASES, help="measure only this case; may be repeated"
    )
    parser.add_argument("--rounds", type=int, default=5, help="number of turns of each subject")
    arguments = parser.parse_args()
    columns = f"{'ours':>10}{'bare':>10}{'checkpoint s':>13}{'ratio':>8}{'low':>7}{'high':>7}"
    print(f"{'images per second':<30}{columns}")
    rounds = 1 if arguments.quick else arguments.rounds
    rows = [measure(case, rounds) for case in arguments.case or CASES]
    write_rows(arguments.json, rows)
    measure_end(100)


if __name__ == "__main__":
    main()
