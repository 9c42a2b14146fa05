"""Seconds of training until a network classifies 93 % of Fashion-MNIST's test images correctly.

    python benchmarks/time_to_accuracy.py [--quick] [--json FILE] [--seeds N] [--subject NAME ...]

Each subject trains a fixed number of epochs, with which its mean test accuracy is at least 93 %.
The subjects train in turn, one seed after the other, and each training has a process of its own. A
ratio is our seconds divided by those of the other subject with the same seed; we are faster if it
is below 1. The aims are 0.9 (PyTorch), and 0.5 (Keras' example and fastai). The subjects:

- ours: the recipe `fashion-fast`, ResNet-20 in bfloat16 for 7 epochs;
- PyTorch: the same network and the same recipe, in bfloat16 and channels_last;
- PyTorch compiled: the same with `torch.compile`;
- Keras' example: cifar10_resnet.py, in which only the data and the number of epochs are changed;
- fastai: its defaults for ResNet-18, without pretrained weights.

PyTorch needs the environment that `make test-parity` installs; fastai is measured if it is
installed there, too (`.venv-parity/bin/pip install fastai`). The images are those of Debian's
package dataset-fashion-mnist.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from accuracy_subjects import RESULT, Result
from turns import PARITY_PYTHON, Row, ratios, write_rows

from keras_cnns.durations import format_seconds
from keras_cnns.table import print_table

SOURCE = "/usr/share/datasets/fashion-mnist"
TARGET = 0.93


class Subject(NamedTuple):
    """How a training of `TRAININGS` is run."""

    epochs: int
    python: str | Path
    needs: tuple[str, ...] = ()  # distributions in the environment of `python`


SUBJECTS = {
    "ours": Subject(7, sys.executable),
    "PyTorch": Subject(7, PARITY_PYTHON, ("torch",)),
    "PyTorch compiled": Subject(7, PARITY_PYTHON, ("torch",)),
    # These two were not trained on all images yet; their numbers of epochs are estimates.
    "Keras' example": Subject(15, sys.executable),
    "fastai": Subject(10, PARITY_PYTHON, ("torch", "fastai")),
}
QUICK_IMAGES = 2560  # training images of a quick run, which has one epoch
COLUMNS = ("subject", "epochs", "accuracy", "standard deviation", "seconds", "ours / its", "range")


def is_installed(subject: Subject) -> bool:
    """Whether the environment of a subject has the distributions that it needs."""
    folders = Path(subject.python).parents[1].glob("lib/python*/site-packages")
    paths = [str(folder) for folder in folders]
    return all(any(Distribution.discover(name=name, path=paths)) for name in subject.needs)


def write_images(path: Path, quick: bool) -> None:
    """Write the splits that all subjects use, as arrays."""
    from keras_cnns.data.sources.idx import read_set

    arrays: dict[str, np.ndarray] = {}
    for split, (images, labels) in read_set(SOURCE).splits.items():
        count = QUICK_IMAGES if quick else len(labels)
        arrays |= {f"{split}_images": images[:count], f"{split}_labels": labels[:count]}
    np.savez(path, **cast(Any, arrays))


def measure(name: str, path: Path, epochs: int, seed: int) -> Result:
    """Train a subject in a new process; return its result."""
    script = Path(__file__).with_name("accuracy_subjects.py")
    command = [SUBJECTS[name].python, script, name, path, epochs, seed]
    process = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    for line in process.stdout.splitlines():
        if line.startswith(RESULT):
            return Result(*json.loads(line.removeprefix(RESULT)))
    raise RuntimeError(f"{name} ended without a result, with status {process.returncode}")


def summarise(results: dict[str, list[Result]], epochs: dict[str, int]) -> list[Row]:
    """Print the table; return its rows."""
    rows: list[Row] = []
    cells = []
    for name, each in results.items():
        accuracies = [result.accuracy for result in each]
        seconds = [result.seconds for result in each]
        deviation = statistics.stdev(accuracies) if len(each) > 1 else None
        ours = [result.seconds for result in results["ours"][: len(each)]]
        figures = ratios(ours, seconds)
        rows.append(
            {
                "case": f"Fashion-MNIST, {TARGET:.0%}",
                "subject": "keras_cnns fashion-fast",
                "peer": name,
                "epochs": epochs[name],
                "accuracies": accuracies,
                "seconds": [round(value, 1) for value in seconds],
                "reached": statistics.mean(accuracies) >= TARGET,
            }
            | figures
        )
        spread = f"{figures['low']:.2f} to {figures['high']:.2f}"
        cells.append(
            (
                name,
                str(epochs[name]),
                f"{statistics.mean(accuracies):.4f}",
                "" if deviation is None else f"{deviation:.4f}",
                f"{statistics.median(seconds):.0f}",
                "" if name == "ours" else f"{figures['ratio']:.2f}",
                "" if name == "ours" else spread,
            )
        )
    print_table(COLUMNS, cells, numbers=range(1, 7))
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Train all subjects in turn, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="an epoch on a few images")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file")
    parser.add_argument("--seeds", type=int, default=3, help="number of trainings of each subject")
    parser.add_argument(
        "--subject",
        action="append",
        choices=SUBJECTS,
        help="compare only with this subject; may be repeated",
    )
    parser.add_argument(
        "--epochs", type=int, help="train this number of epochs instead of each subject's own"
    )
    options = parser.parse_args(arguments)
    chosen = {"ours", *(options.subject or SUBJECTS)}
    names = [name for name in SUBJECTS if name in chosen and is_installed(SUBJECTS[name])]
    for name in sorted(chosen.difference(names)):
        print(f"{name} is left out: its environment lacks {', '.join(SUBJECTS[name].needs)}")
    given = 1 if options.quick else options.epochs
    epochs = {name: given or SUBJECTS[name].epochs for name in names}
    results: dict[str, list[Result]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "images.npz"
        write_images(path, options.quick)
        begin = time.perf_counter()
        for seed in range(1 if options.quick else options.seeds):
            for name in names:
                result = measure(name, path, epochs[name], seed)
                results[name].append(result)
                passed = format_seconds(time.perf_counter() - begin)
                print(
                    f"seed {seed}, {name}: {result.accuracy:.2%} after {result.seconds:.0f} s "
                    f"({passed} passed)",
                    flush=True,
                )
    write_rows(options.json, summarise(results, epochs))


if __name__ == "__main__":
    main()
