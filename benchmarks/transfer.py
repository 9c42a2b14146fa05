"""Test accuracy after fine-tuning and after training from scratch, by the number of images.

    python benchmarks/transfer.py [--quick] [--json FILE] [--markdown] [--seeds N]

A ResNet-20 is trained on one half of Fashion-MNIST's classes (T-shirt to coat) and moved to the
other half (sandal to ankle boot) with 20, 100 and 500 training images per class. Every training
selects its best epoch on 100 other images per class, and is measured on all 5,000 test images of
these classes. A seed determines the training images and the initial weights. For each seed, three
trainings have the same images and the same number of epochs:

- from scratch: the settings of the recipe `fashion-resnet20`;
- fine-tuned: the settings of `finetune-folder` (classifier first, then stage by stage, each stage
  with 0.385 times the learning rate of the next);
- one learning rate: the same settings without the factor, so that all stages have the same learning
  rate.

The differences from the training from scratch are paired over the seeds, and given with their
two-sided 95 % t interval. The data are from Debian's package dataset-fashion-mnist. The trainings
are written to `--runs`, and a repeated command resumes them.
"""

import argparse
import json
import os
import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from idx_files import write_idx
from scipy import stats
from turns import write_rows

from keras_cnns.data.sources.idx import read_set
from keras_cnns.recipes import Recipe, load_recipe
from keras_cnns.training import train

SOURCE = Path("/usr/share/datasets/fashion-mnist")
CLASSES = 5  # in each half
VALIDATION = 100  # images per class
EPOCHS = {20: 60, 100: 30, 500: 20}  # images per class -> epochs
SUBJECTS = ("from scratch", "fine-tuned", "one learning rate")


def write_half(folder: Path, first_class: int, seed: int) -> Path:
    """Write the images of five classes as IDX files, in which the classes alternate.

    The files have no validation split. As for the whole data set, an image's content determines
    whether it is used for training or for validation.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"train": [], "t10k": []}
    for split, (images, labels) in read_set(str(SOURCE)).splits.items():
        classes = [np.flatnonzero(labels == first_class + each) for each in range(CLASSES)]
        count = min(map(len, classes))
        order = np.stack([random.permutation(each)[:count] for each in classes], axis=1).ravel()
        parts["t10k" if split == "test" else "train"].append(
            (images[order], labels[order] - first_class)
        )
    for name, arrays in parts.items():
        images, labels = map(np.concatenate, zip(*arrays, strict=True))
        write_idx(folder, name, images, labels)
    return folder


def make_recipe(subject: str, data: Path, count: int, seed: int, weights: Path) -> Recipe:
    """Return the recipe of a subject with `count` training images per class."""
    recipe = load_recipe(
        "fashion-resnet20",
        [
            f"data.path={data}",
            f"data.train_split=train[:{CLASSES * count}]",
            f"data.validation_split=validation[:{CLASSES * VALIDATION}]",
            f"training.seed={seed}",
            f"training.epochs={EPOCHS[count]}",
            "training.batch_size=32",
        ],
    )
    if subject == "from scratch":
        return recipe
    settings = load_recipe("finetune-folder")
    optimizer = settings.optimizer
    if subject == "one learning rate":
        optimizer = replace(optimizer, stage_learning_rate_factor=1.0)
    smoothing = settings.augmentation.label_smoothing
    return replace(
        recipe,
        optimizer=optimizer,
        model=replace(settings.model, name=recipe.model.name, weights=str(weights)),
        augmentation=replace(recipe.augmentation, label_smoothing=smoothing),
    )


def pretrain(runs: Path, quick: bool) -> Path:
    """Train on the first half of the classes, and return the file of the weights."""
    data = write_half(runs / "data" / "first", 0, seed=0)
    changes = [f"data.path={data}", "training.precision=bfloat16", "training.epochs=10"]
    if quick:
        changes += ["training.epochs=1", "data.train_split=train[:2000]"]
    run = train(load_recipe("fashion-resnet20", changes), runs / "first-half")
    print(f"ResNet-20 on the first half: test accuracy {accuracy_of(run.results()):.3f}")
    return run.path / "model.keras"


def accuracy_of(results: Mapping[str, Any]) -> float:
    return float(results["test"]["accuracy"])


def describe(count: int, accuracies: Mapping[str, list[float]]) -> list[dict[str, Any]]:
    """Return a row for each subject with its mean and standard deviation.

    A row also has the difference from the training from scratch.
    """
    rows = []
    for subject, values in accuracies.items():
        row: dict[str, Any] = {"images per class": count, "subject": subject, "n": len(values)}
        row["mean"] = statistics.mean(values)
        row["std"] = statistics.stdev(values) if len(values) > 1 else None
        differences = np.subtract(values, accuracies["from scratch"])
        if len(values) > 1 and differences.any():
            interval = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
            row["difference"] = float(differences.mean())
            row["interval"] = [float(interval.low), float(interval.high)]
        row["accuracies"] = values
        rows.append(row)
    return rows


def format_row(row: Mapping[str, Any], markdown: bool) -> str:
    deviation = f" ± {100 * row['std']:.1f}" if row["std"] is not None else ""
    difference = ""
    if "interval" in row:
        low, high = row["interval"]
        difference = f"{100 * row['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
    cells = [
        f"{row['images per class']}",
        row["subject"],
        f"{100 * row['mean']:.1f}{deviation} %",
        difference,
    ]
    if markdown:
        return f"| {' | '.join(cells)} |"
    return f"{cells[0]:>16}  {cells[1]:<18}{cells[2]:<15}{cells[3]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two seeds, 20 images per class")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument(
        "--runs", type=Path, help="the directory of the trainings (default: %(default)s)"
    )
    parser.set_defaults(runs=Path("runs/transfer"))
    arguments = parser.parse_args()
    runs = arguments.runs / "quick" if arguments.quick else arguments.runs
    counts = [20] if arguments.quick else list(EPOCHS)
    weights = pretrain(runs, arguments.quick)
    rows = []
    for count in counts:
        accuracies: dict[str, list[float]] = {subject: [] for subject in SUBJECTS}
        for seed in range(2 if arguments.quick else arguments.seeds):
            data = write_half(runs / "data" / f"second-seed{seed}", CLASSES, seed)
            for subject in SUBJECTS:
                recipe = make_recipe(subject, data, count, seed, weights)
                name = f"{subject.replace(' ', '-')}-{count}-seed{seed}"
                results = train(recipe, runs / name).results()
                accuracies[subject].append(accuracy_of(results))
                print(json.dumps({"run": name, "accuracy": accuracy_of(results)}), flush=True)
        rows += describe(count, accuracies)
    if arguments.markdown:
        print("| images per class | training | test accuracy | difference, percentage points |")
        print("| ---: | --- | --- | --- |")
    else:
        print("images per class  training          test accuracy  difference, percentage points")
    for row in rows:
        print(format_row(row, arguments.markdown))
    write_rows(arguments.json, rows)


if __name__ == "__main__":
    main()
