"""Training steps: ours by `model.fit` against stock Keras and PyTorch, in turns.

    python benchmarks/train.py [--quick] [--json FILE] [--case NAME ...]

A turn is an epoch of a few steps. A ratio is our images per second divided by the peer's: above 1
is faster. "memory" is the ratio of the processes' peaks: below 1 is less. Keras' subjects read
their batch by tf.data without autotuning, which would be measured too (see batches.py). Aims: 1.4
(float32) and 1.6 (bfloat16) times stock Keras, 1.1 times the best of PyTorch's modes, not more
memory than that mode.

Stock Keras is the same net of keras.layers with keras.optimizers.SGD, and keras.applications'
ResNet50. PyTorch runs timm's ResNet-50 and the other nets of torch_nets.py, where `.venv-parity`
is (`make test-parity` makes it).
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
    """A net and its batches."""

    batch_size: int
    size: int  # pixels
    classes: int
    steps: int  # of a turn


CASES = {
    "resnet20": Case(128, 32, 10, 10),
    "resnet50": Case(16, 224, 1000, 2),
    "googlenet_bn": Case(16, 224, 1000, 4),  # with both auxiliary classifiers
}
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
KERAS = ("ours", "stock Keras", "keras.applications")
TORCH = ("torch eager", "torch channels_last", "torch compiled")  # each also under autocast
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
    """Be a Keras subject: one long `fit`, an epoch a turn."""
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
    # Keras' own decay is beside the gradient: the nearest that it has.
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
        """Wait for a turn before an epoch, and report its seconds after it; the first warms up."""

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch and not sys.stdin.readline():
                sys.exit()
            self.start = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            answer(time.perf_counter() - self.start)

    net.fit(batches, epochs=10**6, verbose=0, callbacks=[Turns()])


def torch_steps(name: str, case: str, precision: str) -> Callable[[], None]:
    """Return a turn of a PyTorch subject."""
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
            loss.item()  # as a loop that logs its loss, and Keras', which counts it

    return run


def compare(case: str, precision: str, subjects: dict[str, Subject], rounds: int) -> list[Row]:
    """Give each subject its turns; print and return our ratios to each."""
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for number in range(rounds + 1):
        for name, each in subjects.items():
            seconds = each.measure()
            if number:  # the first finds its memory paged out and its caches taken by the others
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
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument(
        "--case", nargs="+", choices=CASES, default=list(CASES), help="some of the nets"
    )
    parser.add_argument(
        "--precision", nargs="+", choices=PRECISIONS, default=list(PRECISIONS), help="some of them"
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
