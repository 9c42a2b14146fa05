"""Duration of a training step with all diagnostics, divided by that of a step without them.

    python benchmarks/diagnostics.py [--quick] [--case NAME] [--json FILE]

In one training, all diagnostics run on every second step, and write their files and TensorBoard's.
From the durations of the steps with and without diagnostics, the script computes the mean duration
of a step at the default interval of the diagnostics. A ratio is this mean divided by the duration
of a step without any callback. The aim is at most 1.05.
"""

import argparse
import io
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from batches import repeat_batch
from turns import ratios, write_rows

from keras_cnns.models import build
from keras_cnns.optimizers import Momentum
from keras_cnns.training.callback_list import make_watchers
from keras_cnns.training.callbacks import Diagnostic, Progress
from keras_cnns.training.callbacks.diagnostic import INTERVAL

# case -> network, height and width of its images, batch size, number of classes
CASES = {
    "ResNet-20, 32, batch 128": ("resnet20", 32, 128, 10),
    "GoogLeNet, 32, batch 32": ("googlenet_bn", 32, 32, 10),
    "ResNet-50, 224, batch 16": ("resnet50", 224, 16, 1000),
}
WARM_UP = 2  # number of pairs of steps that are not measured


class Clock(keras.callbacks.Callback):
    """Record when each step begins; this callback must be the first one."""

    def __init__(self) -> None:
        super().__init__()
        self.begins: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.begins.append(time.perf_counter())


def idle_seconds(callbacks: list[keras.callbacks.Callback], calls: int = 1000) -> float:
    """Return the time of all callbacks in a step on which no diagnostic runs."""
    start = time.perf_counter()
    for _ in range(calls):
        for callback in callbacks:
            callback.on_train_batch_begin(0)
        for callback in callbacks:
            callback.on_train_batch_end(0, {"loss": 1.0})
    return (time.perf_counter() - start) / calls


def measure(case: str, pairs: int) -> dict[str, Any]:
    name, size, batch_size, classes = CASES[case]
    net = build(name, input_shape=(size, size, 3), classes=classes)
    net.compile(Momentum(0.01), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    generator = np.random.default_rng(0)
    images = generator.normal(size=(batch_size, size, size, 3)).astype("float32")
    labels = generator.integers(0, classes, batch_size)
    batches = repeat_batch(images, labels)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        watchers = make_watchers(Path(folder), (images, labels))
        for each in watchers:
            if isinstance(each, Progress):
                each.stream = io.StringIO()
        diagnostics = [each for each in watchers if isinstance(each, Diagnostic)]
        for each in diagnostics:
            each.interval = 2
        steps = 2 * (pairs + WARM_UP) + 1
        net.fit(
            batches,
            steps_per_epoch=steps,
            shuffle=False,
            verbose=0,
            callbacks=[clock, *watchers],
        )
        for each in diagnostics:
            each.interval = 10**9
        idle = idle_seconds(watchers)
    periods = np.diff(clock.begins)[2 * WARM_UP :]
    measured, plain = periods[0::2], periods[1::2]
    with_diagnostics = (measured + (INTERVAL - 1) * plain) / INTERVAL
    row = {
        "case": case,
        "subject": f"a step with every diagnostic at an interval of {INTERVAL} steps",
        "peer": "a step without callbacks",
    } | ratios(with_diagnostics.tolist(), (plain - idle).tolist())
    step, extra = np.median(plain) * 1e3, np.median(measured - plain) * 1e3
    spread = f"{row['ratio']:>8.3f}{row['low']:>8.3f}{row['high']:>8.3f}"
    print(f"{case:<26}{step:>10.1f}{extra:>13.1f}{idle * 1e6:>9.0f}{spread}", flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer steps, without ResNet-50")
    parser.add_argument("--case", choices=CASES, help="measure only this case")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file")
    arguments = parser.parse_args()
    cases = [arguments.case] if arguments.case else list(CASES)
    if arguments.quick and not arguments.case:
        cases = cases[:2]
    head = f"{'case':<26}{'step ms':>10}{'measuring ms':>13}{'idle us':>9}"
    print(f"{head}{'ratio':>8}{'low':>8}{'high':>8}")
    rows = [measure(case, 5 if arguments.quick else 15) for case in cases]
    write_rows(arguments.json, rows)


if __name__ == "__main__":
    main()
