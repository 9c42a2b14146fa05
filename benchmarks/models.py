"""Time of our ResNet-50, compared with keras.applications and timm: import, build, run and train.

    python benchmarks/models.py [--quick] [--json FILE]

Every network runs in a process of its own, in turn, so that a slow moment of the machine affects
all of them. A ratio is our time divided by that of the other network; we are faster if it is less
than 1. The aim is at most 1.0 compared with keras.applications. timm is measured if `.venv-parity`
exists (`make test-parity` creates it).
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from turns import PARITY_PYTHON, ratios, subject, take_turns, write_rows

SIZE = 224  # pixels
# case -> (batch size, whether it is a training step)
STEPS = {"forward, batch 1": (1, False), "forward, batch 8": (8, False), "step, batch 8": (8, True)}
IMPORTS = {"ours": "keras_cnns.models", "keras.applications": "keras.applications"}

Run = Callable[[], Any]


def keras_net(name: str) -> Any:
    import keras

    from keras_cnns.models import build

    return build("resnet50") if name == "ours" else keras.applications.ResNet50(weights=None)


def keras_run(name: str, batch_size: int, training: bool) -> Run:
    import keras
    import numpy as np
    import tensorflow as tf

    net = keras_net(name)
    generator = np.random.default_rng(0)
    images = tf.constant(generator.normal(size=(batch_size, SIZE, SIZE, 3)), tf.float32)
    labels = tf.constant(generator.integers(0, 1000, batch_size))
    if not training:
        forward = tf.function(lambda: net(images, training=False))
        return lambda: forward().numpy()
    # Both networks have the same optimizer, because only the networks are compared.
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    net.compile(optimizer, "sparse_categorical_crossentropy")
    return lambda: net.train_on_batch(images, labels)


def timm_run(name: str, batch_size: int, training: bool) -> Run:
    import torch
    import torch_nets

    net = torch_nets.make("resnet50").to(memory_format=torch.channels_last)
    images = torch.randn(batch_size, 3, SIZE, SIZE).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 1000, (batch_size,))
    if not training:
        net.eval()

        def forward() -> None:
            with torch.inference_mode():
                net(images)

        return forward
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()

    return step


def work(name: str, case: str) -> None:
    """Run a subject in this process: in each turn, build its network, or run or train it."""
    if case == "build":
        take_turns(partial(keras_net, name))
    else:
        take_turns((timm_run if name == "timm" else keras_run)(name, *STEPS[case]))


def import_seconds(name: str) -> float:
    start = time.perf_counter()
    command = [sys.executable, "-c", f"import {IMPORTS[name]}"]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def compare(case: str, times: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Print and return our ratio to each of the other networks."""
    rows = []
    for peer in times:
        if peer == "ours":
            continue
        figures = ratios(times["ours"], times[peer])
        rows.append({"case": case, "subject": "keras_cnns resnet50", "peer": peer} | figures)
        mine, theirs = (statistics.median(times[each]) * 1e3 for each in ("ours", peer))
        spread = "".join(f"{value:>7.2f}" for value in figures.values())
        print(f"{case:<18}{peer:<20}{mine:>9.0f}{theirs:>9.0f}{spread}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file")
    parser.add_argument("--subject", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.subject:
        work(*arguments.subject)
        return
    rounds = 3 if arguments.quick else 9
    print(f"{'case':<18}{'peer':<20}{'ours ms':>9}{'peer ms':>9}{'ratio':>7}{'low':>7}{'high':>7}")
    samples: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(rounds):
        for name in samples:
            samples[name].append(import_seconds(name))
    rows = compare("import", samples)
    for case in ("build", *STEPS):
        names = ["ours", "keras.applications"]
        if case in STEPS and PARITY_PYTHON.exists():
            names.append("timm")
        with ExitStack() as stack:
            subjects = {}
            for name in names:
                python = PARITY_PYTHON if name == "timm" else sys.executable
                command = (__file__, "--subject", name, case)
                subjects[name] = stack.enter_context(subject(python, *command))
            samples = {name: [] for name in names}
            for _ in range(rounds):
                for name, each in subjects.items():
                    samples[name].append(each.measure())
        rows += compare(case, samples)
    write_rows(arguments.json, rows)


if __name__ == "__main__":
    main()
