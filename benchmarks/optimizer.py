"""Time of our optimizer's step on ResNet-50's variables, compared with keras.optimizers.SGD.

    python benchmarks/optimizer.py [--quick] [--json FILE]

Both optimizers apply the same gradients, each in a `tf.function`, in turn within one process. A
ratio is our time divided by that of SGD; we are faster if it is less than 1. The aim is at most
0.55.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from turns import ratios, write_rows

from keras_cnns.optimizers import Momentum

Step = Callable[[], None]

# case -> the options of our optimizer, and those of Keras' SGD. Both also have a learning rate of
# 0.1 and a momentum of 0.9.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "heavy ball": ({}, {}),
    "nesterov": ({"nesterov": True}, {"nesterov": True}),
    "learning rate in velocity": ({"learning_rate_in_velocity": True}, {}),
    # Our default weight decay is added to the gradient, as in torch and in He et al. Keras' weight
    # decay is decoupled from the gradient, as in our case "decoupled decay".
    "weight decay": ({"weight_decay": 1e-4}, {"weight_decay": 1e-4}),
    "decoupled decay": (
        {"weight_decay": 1e-4, "decoupled_weight_decay": True},
        {"weight_decay": 1e-4},
    ),
    "clipnorm": ({"clipnorm": 1.0}, {"clipnorm": 1.0}),
    "global clipnorm": ({"global_clipnorm": 1.0}, {"global_clipnorm": 1.0}),
}


def compiled_step(optimizer: keras.optimizers.Optimizer, shapes: list[tuple[int, ...]]) -> Step:
    generator = np.random.default_rng(0)
    with tf.device("CPU"):
        variables = [keras.Variable(tf.zeros(shape)) for shape in shapes]
        gradients = [tf.constant(generator.normal(size=s), tf.float32) for s in shapes]
    optimizer.build(variables)
    step: Step = tf.function(lambda: optimizer.apply(gradients))
    for _ in range(3):
        step()
    return step


def milliseconds(step: Step, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        step()
    return (time.perf_counter() - start) / repeats * 1e3


def measure(case: str, rounds: int, repeats: int, shapes: list[tuple[int, ...]]) -> dict[str, Any]:
    options, peer_options = CASES[case]
    ours = compiled_step(Momentum(0.1, 0.9, **options), shapes)
    theirs = compiled_step(keras.optimizers.SGD(0.1, 0.9, **peer_options), shapes)
    pairs = [(milliseconds(ours, repeats), milliseconds(theirs, repeats)) for _ in range(rounds)]
    mine_all, peer_all = zip(*pairs, strict=True)
    row = {"case": case, "subject": "keras_cnns Momentum", "peer": "keras SGD"}
    row |= ratios(mine_all, peer_all)
    mine, peer = statistics.median(mine_all), statistics.median(peer_all)
    spread = f"{row['ratio']:>8.2f}{row['low']:>7.2f}{row['high']:>7.2f}"
    print(f"{case:<26}{mine:>9.1f}{peer:>9.1f}{spread}", flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file")
    arguments = parser.parse_args()
    rounds, repeats = (5, 4) if arguments.quick else (15, 8)
    net = keras.applications.ResNet50(weights=None)
    shapes = [tuple(variable.shape) for variable in net.trainable_variables]
    del net
    parameters = sum(int(np.prod(shape)) for shape in shapes)
    print(f"{len(shapes)} variables, {parameters / 1e6:.1f} million parameters, {rounds} rounds")
    print(f"{'case':<26}{'ours ms':>9}{'SGD ms':>9}{'ratio':>8}{'low':>7}{'high':>7}")
    rows = [measure(case, rounds, repeats, shapes) for case in CASES]
    write_rows(arguments.json, rows)


if __name__ == "__main__":
    main()
