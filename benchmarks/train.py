"""Speed of training steps by `model.fit`, compared with stock Keras and PyTorch.

    python benchmarks/train.py [--quick] [--json FILE] [--case NAME ...]

The subjects run in turn, and a turn is an epoch of a few steps. A ratio is our images per second
divided by those of the other subject; we are faster if it is greater than 1. "memory" is our
process's peak memory divided by that of the other process; we need less if it is less than 1. With
Keras, tf.data provides the batch without autotuning, because autotuning would delay the end of an
epoch (see batches.py). The aims are 1.4 times (float32) and 1.6 times (bfloat16) the speed of stock
Keras, 1.1 times the speed of the fastest mode of PyTorch, and at most the memory of this mode.

"stock Keras" is the same network with the layers of Keras and keras.optimizers.SGD;
"keras.applications" is its ResNet50. PyTorch runs the networks of torch_nets.py if `.venv-parity`
exists (`make test-parity` creates it).
"""

import argparse
import itertools
import os
import statistics
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from turns import PARITY_PYTHON, Row, Subject, answer, ratios, subject, take_turns, write_rows


class Case(NamedTuple):
    """The batches of a network."""

    batch_size: int
    size: int  # height and width of the images, in pixels
    classes: int
    steps: int  # number of steps in a turn


CASES = {
    "resnet20": Case(128, 32, 10, 10),
    "resnet50": Case(16, 224, 1000, 2),
    "googlenet_bn": Case(16, 224, 1000, 4),  # with both auxiliary classifiers
}
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
KERAS = ("ours", "stock Keras", "keras.applications")
TORCH = ("torch eager", "torch channels_last", "torch compiled")  # bfloat16 by autocast
AUXILIARY_WEIGHT = 0.3
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 1e-4


def keras_net(name: str, case: str) -> Any:
    import keras

    from keras_cnns.models import build, layers

    if name == "keras.applications":
        return keras.applications.ResNet50(weights=None)
    if name == "stock Keras":
        vars(layers).update(
            BatchNormalization=keras.layers.BatchNormalization, Conv2D=keras.layers.Conv2D
        )
    size, classes = CASES[case].size, CASES[case].classes
    return build(
        case,
        input_shape=(size, size, 3),
        classes=classes,
        aux_heads=case == "googlenet_bn",
    )


def fit(name: str, case: str, precision: str) -> None:
    """Run a Keras subject in this process: one long `fit`, in which each epoch is a turn."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import time

    import keras
    import numpy as np
    from batches import repeat_batch

    from keras_cnns.optimizers import Momentum

    keras.config.set_dtype_policy(PRECISIONS[precision])
    net = keras_net(name, case)
    batch_size, size, classes, steps = CASES[case]
    generator = np.random.default_rng(0)
    images = generator.normal(size=(batch_size, size, size, 3)).astype("float32")
    labels = generator.integers(0, classes, batch_size)
    loss = "sparse_categorical_crossentropy"
    # Keras' weight decay is decoupled from the gradient, unlike ours; it has no other.
    kind = Momentum if name == "ours" else keras.optimizers.SGD
    optimizer = kind(LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    targets: Any = labels
    if isinstance(net.output, dict):
        targets = dict.fromkeys(net.output, labels)
        weights = {key: 1.0 if key == "main" else AUXILIARY_WEIGHT for key in net.output}
        net.compile(optimizer, dict.fromkeys(net.output, loss), loss_weights=weights)
    else:
        net.compile(optimizer, loss)
    batches = repeat_batch(images, targets, steps)

    class Turns(keras.callbacks.Callback):
        """Before each epoch, wait for the turn; after the epoch, report its seconds.

        The first epoch is for warm-up, and begins at once.
        """

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch and not sys.stdin.readline():
                sys.exit()
            self.start = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            answer(time.perf_counter() - self.start)

    net.fit(batches, epochs=10**6, verbose=0, callbacks=[Turns()])


def torch_steps(name: str, case: str, precision: str) -> Callable[[], None]:
    """Return a function that runs a turn of a PyTorch subject."""
    import torch
    import torch_nets

    torch.manual_seed(0)
    batch_size, size, classes, steps = CASES[case]
    net = torch_nets.make(case)
    images = torch.randn(batch_size, 3, size, size)
    labels = torch.randint(0, classes, (batch_size,))
    if name != "torch eager":
        net = net.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        net.parameters(), LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    forward = torch.compile(net) if name == "torch compiled" else net

    def run() -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                outputs = forward(images)
            logits = outputs if isinstance(outputs, list) else [outputs]
            weights = [1.0] + [AUXILIARY_WEIGHT] * (len(logits) - 1)
            losses = [torch.nn.functional.cross_entropy(each.float(), labels) for each in logits]
            loss = sum(w * each for w, each in zip(weights, losses, strict=True))
            loss.backward()
            optimizer.step()
            loss.item()  # a typical training loop logs the loss, and Keras computes its mean

    return run


def compare(case: str, precision: str, subjects: dict[str, Subject], rounds: int) -> list[Row]:
    """Measure all subjects in turn; print and return our ratios to the other subjects."""
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for number in range(rounds + 1):
        for name, each in subjects.items():
            seconds = each.measure()
            # The first turn is not counted: the start of the other subjects has replaced the
            # content of the caches.
            if number:
                times[name].append(seconds)
    images = CASES[case].batch_size * CASES[case].steps
    speeds = {name: images / statistics.median(values) for name, values in times.items()}
    label = f"{case}, {precision}"
    rows = []
    for name, each in subjects.items():
        gigabytes = each.peak_bytes / 1e9
        line = f"{label:<24}{name:<22}{speeds[name]:>10.1f}{gigabytes:>8.2f}"
        if name != "ours":
            row: Row = {"case": label, "subject": "keras_cnns fit", "peer": name}
            rows.append(row | ratios(times[name], times["ours"]))
            memory = subjects["ours"].peak_bytes / each.peak_bytes
            figures = dict.fromkeys(("ratio", "low", "high"), round(memory, 3))
            rows.append({**row, "case": f"{label}, memory"} | figures)
            spread = (f"{rows[-2][key]:>8.2f}" for key in ("ratio", "low", "high"))
            line += "".join(spread) + f"{memory:>8.2f}"
        print(line, flush=True)
    return rows


def names_of(case: str) -> list[str]:
    names = [name for name in KERAS if case == "resnet50" or name != "keras.applications"]
    return names + (list(TORCH) if PARITY_PYTHON.exists() else [])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file")
    parser.add_argument(
        "--case",
        nargs="+",
        choices=CASES,
        default=list(CASES),
        help="measure only these networks (default: all)",
    )
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=PRECISIONS,
        default=list(PRECISIONS),
        help="measure only these precisions (default: both)",
    )
    parser.add_argument("--subject", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.subject:
        name, case, precision = arguments.subject
        if name in KERAS:
            fit(name, case, precision)
        else:
            take_turns(torch_steps(name, case, precision))
        return
    rounds = 5 if arguments.quick else 11
    print(
        f"{'case':<24}{'subject':<22}{'images/s':>10}{'GB':>8}"
        f"{'speed':>8}{'low':>8}{'high':>8}{'memory':>8}"
    )
    rows = []
    for case, precision in itertools.product(arguments.case, arguments.precision):
        with ExitStack() as stack:
            subjects = {}
            for name in names_of(case):
                python = sys.executable if name in KERAS else PARITY_PYTHON
                command = (__file__, "--subject", name, case, precision)
                subjects[name] = stack.enter_context(subject(python, *command))
            rows += compare(case, precision, subjects, rounds)
    write_rows(arguments.json, rows)


if __name__ == "__main__":
    main()
