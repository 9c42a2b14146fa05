"""Precision of the label review on Fashion-MNIST with flipped labels, compared with cleanlab's.

    python benchmarks/label_review.py [--quick] [--json FILE] [--images N] [--runs DIRECTORY]

5 % of the labels, chosen at random, are replaced by another class ("flipped"). The models of five
folds are trained as by `keras-cnns train --folds`. `keras-cnns data review` and cleanlab then rank
the labels by the predictions of these models. The precision is the fraction of flipped labels among
the first M of a ranking, where M is the number of flipped labels. `--images` is the number of
training images; the whole data set has 60000. `--runs` keeps the models, and a repeated command
uses them again.

cleanlab is not a requirement of this project: `pip install 'cleanlab>=2.9'`. Without it, only this
project's ranking is measured.
"""

import argparse
import gzip
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from idx_files import write_idx
from turns import write_rows

from keras_cnns.data.sources.by_content import split_by_content
from keras_cnns.data.sources.idx import find_files
from keras_cnns.recipes import Recipe, load_recipe
from keras_cnns.review.scores import rank_labels
from keras_cnns.training.folds import OutOfFold, collect_out_of_fold, train_folds

FOLDS, FLIPPED, SEED = 5, 0.05, 0
HEADERS = {"images": 16, "labels": 8}  # kind of file -> bytes of its header


def read(folder: Path, split: str, kind: str, count: int) -> np.ndarray:
    """Return the first `count` images [N, 784] or labels [N, 1] of a split."""
    path = find_files(folder)[split, kind]
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        content = np.frombuffer(file.read(), np.uint8, offset=HEADERS[kind])
    return content.reshape(-1, 784 if kind == "images" else 1)[:count]


def write_set(source: Path, target: Path, images: int) -> dict[str, np.ndarray]:
    """Write the first images of each split of a data set, and flip some of their labels.

    Return split -> whether each label was flipped, bool [N].
    """
    generator = np.random.default_rng(SEED)
    is_flipped = {}
    for split, name, count in (("train", "train", images), ("test", "t10k", images // 6)):
        pixels, labels = (read(source, split, kind, count) for kind in HEADERS)
        labels = labels.ravel().copy()
        chosen = generator.permutation(len(labels))[: round(FLIPPED * len(labels))]
        labels[chosen] = (labels[chosen] + generator.integers(1, 10, len(chosen))) % 10
        is_flipped[split] = np.isin(np.arange(len(labels)), chosen)
        write_idx(target, name, pixels.reshape(-1, 28, 28), labels)
    return is_flipped


def make_recipe(folder: Path, epochs: int) -> Recipe:
    changes = [f"data.path={folder}", f"training.epochs={epochs}"]
    return load_recipe("fashion-resnet20", changes)


def find_flipped(found: OutOfFold, folder: Path, is_flipped: Mapping[str, np.ndarray]) -> Any:
    """Return whether the label of each prediction was flipped, bool [N]."""
    parts = split_by_content(read(folder, "train", "images", 10**9).reshape(-1, 28, 28))
    flipped = {name: is_flipped["train"][indices] for name, indices in parts.items()}
    flipped["test"] = is_flipped["test"]
    pairs = zip(found.splits, found.indices, strict=True)
    return np.array([flipped[split][index] for split, index in pairs])


def rankings(found: OutOfFold) -> dict[str, np.ndarray]:
    """Return name of a ranking -> the indices of the labels, beginning with the most suspicious."""
    probabilities, labels = found.probabilities, found.labels
    ours = {"keras-cnns data review": rank_labels(probabilities, labels).order}
    try:
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores
    except ImportError:
        print("cleanlab is not measured, because it is not installed: pip install 'cleanlab>=2.9'")
        return ours

    def by_score(method: str) -> np.ndarray:
        scores = get_label_quality_scores(labels, probabilities, method=method)
        return np.argsort(scores, kind="stable")

    issues = find_label_issues(labels, probabilities, return_indices_ranked_by="self_confidence")
    rest = by_score("self_confidence")
    return {
        **ours,
        "cleanlab, find_label_issues": np.concatenate([issues, rest[~np.isin(rest, issues)]]),
        "cleanlab, self_confidence": rest,
        "cleanlab, normalized_margin": by_score("normalized_margin"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="2,000 training images, 4 epochs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file")
    parser.add_argument("--images", type=int, default=12_000, help="number of training images")
    parser.add_argument("--epochs", type=int, default=10, help="number of epochs of each fold")
    parser.add_argument(
        "--runs", type=Path, metavar="DIRECTORY", help="keep the models in this directory"
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("/usr/share/datasets/fashion-mnist"),
        help="the directory of Fashion-MNIST's files",
    )
    arguments = parser.parse_args()
    images, epochs = (2_000, 4) if arguments.quick else (arguments.images, arguments.epochs)
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.runs or Path(temporary)
        data = work / "fashion-mnist"
        data.mkdir(parents=True, exist_ok=True)
        is_flipped = write_set(arguments.data, data, images)
        recipe = make_recipe(data, epochs)
        for _ in train_folds(recipe, work / "folds", FOLDS):
            pass
        found = collect_out_of_fold(work / "folds", FOLDS)
        flipped = find_flipped(found, data, is_flipped)
    count = int(flipped.sum())
    hits = found.probabilities.argmax(axis=1) == found.labels
    print(
        f"{len(flipped):,} images, {count} flipped labels, {FOLDS} folds of {epochs} epochs, "
        f"accuracy on the given labels {hits.mean():.2%}"
    )
    print(f"{'ranking':<30}{f'precision at {count}':>20}{f'at {count // 2}':>16}")
    rows = []
    for name, order in rankings(found).items():
        precision, half = (float(flipped[order[:n]].mean()) for n in (count, count // 2))
        print(f"{name:<30}{precision:>20.2%}{half:>16.2%}")
        rows.append({"subject": name, "images": len(flipped), "flipped": count})
        rows[-1] |= {"precision": round(precision, 4), "precision_at_half": round(half, 4)}
    is_issue = rank_labels(found.probabilities, found.labels).is_issue
    print(
        f"keras-cnns reports {is_issue.sum()} probable label errors: {flipped[is_issue].mean():.1%}"
        f" of them are flipped labels, and they include {is_issue[flipped].mean():.1%} of all "
        "flipped labels"
    )
    write_rows(arguments.json, rows)


if __name__ == "__main__":
    main()
