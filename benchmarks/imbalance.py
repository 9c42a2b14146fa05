"""Recall of rare classes with each key of [class_balance], compared with a training without them.

    python benchmarks/imbalance.py [--quick] [--json FILE] [--seeds N] [--method NAME]

The data are the built-in digits with imbalanced classes, 1:50: half of the classes have 100
training images each, and the other half have 2 each (the step imbalance of Buda et al. 2018,
arXiv:1710.05381). The seed determines which digits are rare, which images are used, and the
randomness of the training. The whole test split is used, with about 36 images of each digit.
ResNet-8 is trained from scratch with the settings of the recipe digits-resnet20, for about as many
steps as this recipe takes. The weights of the last epoch are tested; no epoch is selected on a
validation split.

Each column is a median over the seeds:

- the lowest recall of any class;
- the mean recall of the rare classes;
- the balanced accuracy, which is the mean recall of all classes;
- the accuracy on images whose classes are as frequent as in the training split: the mean recall of
  all classes, weighted by their numbers of training images.

The number in parentheses is the median difference from the training without balancing; the
difference is computed for each seed.
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_CNNS_CACHE", "off")

import keras
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from turns import write_rows

from keras_cnns.data.sources.digits import assign_splits, enlarge
from keras_cnns.recipes import load_recipe
from keras_cnns.report.metrics import balanced_accuracy, confusion_counts
from keras_cnns.runs.predictions import collect
from keras_cnns.training.preparation import prepare

FREQUENT, RARE = 100, 2  # number of training images of a class
EPOCHS, QUICK_EPOCHS = 34, 12
NONE = "none"
METHODS = {
    NONE: (),
    "weights: inverse": ("class_balance.weights=inverse",),
    "weights: effective_number": ("class_balance.weights=effective_number",),
    "balanced_sampling": ("class_balance.balanced_sampling=true",),
    "focal_gamma: 2": ("class_balance.focal_gamma=2.0",),
    # With class weights, the focal loss is that of Lin et al. 2017, equation 5, which the paper
    # uses in all experiments; with these weights, it is that of Cui et al. 2019, section 4.
    "focal_gamma, effective_number": (
        "class_balance.focal_gamma=2.0",
        "class_balance.weights=effective_number",
    ),
    "focal_gamma, balanced_sampling": (
        "class_balance.focal_gamma=2.0",
        "class_balance.balanced_sampling=true",
    ),
}
METRICS = ("worst recall", "rare recall", "balanced accuracy", "accuracy")


def write_photos(root: Path, seed: int) -> np.ndarray:
    """Write the imbalanced digits as a folder of images.

    Return the number of training images of each class.
    """
    images, labels = load_digits(return_X_y=True)
    splits = assign_splits(labels)
    generator = np.random.default_rng(seed)
    classes = int(labels.max()) + 1
    counts = np.where(generator.permutation(classes) < classes // 2, RARE, FREQUENT)
    for split in ("train", "validation", "test"):
        for label in range(classes):
            members = np.flatnonzero((splits == split) & (labels == label))
            if split == "train":
                members = generator.permutation(members)[: counts[label]]
            folder = root / split / str(label)
            folder.mkdir(parents=True)
            for index in members:
                Image.fromarray(enlarge(images[index])[..., 0]).save(folder / f"{index}.png")
    return counts


def measure(photos: Path, counts: np.ndarray, seed: int, epochs: int, method: str) -> list[float]:
    """Train, and return the metrics on the test split, in the order of `METRICS`."""
    recipe = load_recipe(
        "digits-resnet20",
        [
            "data.name=folder",
            f"data.path={photos}",
            "model.name=resnet8",
            f"training.epochs={epochs}",
            f"training.seed={seed}",
            *METHODS[method],
        ],
    )
    prepared = prepare(recipe)
    _, test = prepared.open_held_out()
    prepared.model.fit(
        prepared.batches(),
        steps_per_epoch=prepared.training.steps,
        epochs=epochs,
        shuffle=False,
        verbose=0,
    )
    predictions = collect(prepared.model, test)
    confusion = confusion_counts(predictions.labels, predictions.predicted, predictions.classes)
    recall = np.diag(confusion) / confusion.sum(axis=1)
    keras.utils.clear_session()
    return [
        float(recall.min()),
        float(recall[counts == RARE].mean()),
        balanced_accuracy(confusion),
        float(recall @ counts / counts.sum()),
    ]


def print_rows(results: dict[str, list[list[float]]]) -> list[dict[str, Any]]:
    """Print the medians and the median differences; return them for a JSON file."""
    print(f"{'':<32}" + "".join(f"{name:>26}" for name in METRICS))
    rows = []
    for method, values in results.items():
        row: dict[str, Any] = {"method": method, "seeds": len(values)}
        cells = ""
        for index, name in enumerate(METRICS):
            median = statistics.median(each[index] for each in values)
            differences = [
                each[index] - base[index] for each, base in zip(values, results[NONE], strict=False)
            ]
            change = statistics.median(differences)
            row |= {name: median, f"{name} change": change}
            cells += f"{median:>17.1%} ({change * 100:+5.1f})"
        rows.append(row)
        print(f"{method:<32}{cells}", flush=True)
    return rows


def run(seeds: Sequence[int], epochs: int, methods: Sequence[str]) -> list[dict[str, Any]]:
    results: dict[str, list[list[float]]] = {method: [] for method in methods}
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            counts = write_photos(Path(folder) / "photos", seed)
            print(f"seed {seed}: training images of each class {counts.tolist()}", flush=True)
            for method in methods:
                metrics = measure(Path(folder) / "photos", counts, seed, epochs, method)
                results[method].append(metrics)
                print(f"  {method:<30}" + "".join(f"{each:>9.1%}" for each in metrics), flush=True)
    return print_rows(results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two seeds, and fewer epochs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument(
        "--method",
        action="append",
        choices=METHODS,
        help="measure only this method and 'none'; may be repeated",
    )
    arguments = parser.parse_args()
    seeds = range(2 if arguments.quick else arguments.seeds)
    epochs = QUICK_EPOCHS if arguments.quick else EPOCHS
    methods = [each for each in METHODS if each in {NONE, *(arguments.method or METHODS)}]
    write_rows(arguments.json, run(seeds, epochs, methods))


if __name__ == "__main__":
    main()
