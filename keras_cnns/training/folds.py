"""Cross-validation: train a model for each fold, and predict the images of the fold.

The directory receives a run for each fold, `fold-1` to `fold-K`, and then:

- `out_of_fold.npz` and `out_of_fold.csv`, see `OutOfFold`;
- `folds.json`, the validation accuracy of each fold, and the mean and the standard deviation of
  these accuracies.
"""

import hashlib
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np

from keras_cnns.data import Split, Splits
from keras_cnns.files import naming_the_file, replacing, write_json, write_names
from keras_cnns.messages import counting, print_message
from keras_cnns.recipes import Recipe, parse_recipe, with_absolute_paths
from keras_cnns.runs.directory import check_data, opened_for_training
from keras_cnns.runs.names import CONFIG, FOLDS, OUT_OF_FOLD, RESULTS
from keras_cnns.runs.predictions import predictor
from keras_cnns.runs.run import Run, RunError, open_run
from keras_cnns.runs.tables import format_rows
from keras_cnns.spreadsheets import escape_cell
from keras_cnns.training.trainer import train

_COLUMNS = (
    *("file", "split", "index", "fold", "label", "label_probability"),
    *("predicted", "confidence"),
)


@dataclass(frozen=True)
class OutOfFold:
    """Predictions for all N images of a data set with K classes.

    No model predicts an image that it was trained on. A training or validation image is predicted
    by the model of its fold. A test image is predicted by all models, and their probabilities are
    averaged.
    """

    classes: np.ndarray  # text [K]
    probabilities: np.ndarray  # float32 [N, K]
    labels: np.ndarray  # int64 [N]
    folds: np.ndarray  # int64 [N], the number of the fold, from 1; 0 for the test images
    splits: np.ndarray  # text [N], the split as the recipe names it
    indices: np.ndarray  # int64 [N], the index in this split
    files: np.ndarray  # text [N], the path of each file; "" if the images are not files


def fold_path(directory: Path, fold: int) -> Path:
    """Return the run directory of a fold; folds are counted from 1."""
    return directory / f"fold-{fold}"


def with_fold(recipe: Recipe, fold: int, folds: int) -> Recipe:
    """Return the recipe of a fold.

    Raises:
        ValueError: there is no such fold, or the recipe's splits cannot be divided into folds.
    """
    tree = asdict(cast(Any, recipe))
    tree["data"] |= {"fold": fold, "folds": folds}
    return parse_recipe(tree)


def train_folds(
    recipe: Recipe, directory: str | Path, folds: int, **intervals: Any
) -> Iterator[Run]:
    """Train the models of all folds, and yield the run of each fold when it is finished.

    Finished folds are not trained again, and an interrupted fold is resumed.

    Args:
        recipe: the recipe without folds.
        directory: receives the run directories; it is new, or contains runs of the same folds.
        folds: the number of folds, at least 2.
        intervals: `checkpoint_seconds` and `checkpoint_steps`, as in `train`.

    Raises:
        RunError: the directory is a run, or a run of a fold has another recipe or other data.
        ValueError: there are too few images, or the recipe itself specifies a fold; see also
            `train`.
    """
    directory = Path(directory)
    if recipe.data.fold:
        raise ValueError(
            f"the recipe trains fold {recipe.data.fold} of {recipe.data.folds}; remove data.fold "
            "and data.folds to train all folds"
        )
    if (directory / CONFIG).exists():
        raise RunError(f"{directory} is a run, not a directory of folds; choose another directory")
    recipes = [with_absolute_paths(with_fold(recipe, k + 1, folds)) for k in range(folds)]
    paths = [fold_path(directory, k + 1) for k in range(folds)]
    remaining = [not (path / RESULTS).exists() for path in paths]
    splits = Splits(recipes[0].data)
    fingerprint = splits.fingerprint()
    if splits.corrections:
        print_message(f"{recipes[0].data.corrections}: {splits.corrections.describe()}")
    for k, (each, path) in enumerate(zip(recipes, paths, strict=True)):
        if remaining[k]:
            yield train(each, path, folds_after=sum(remaining[k + 1 :]), **intervals)
        else:
            with opened_for_training(path, each):
                check_data(path, fingerprint)
            print_message(f"fold {k + 1}/{folds} is finished already")
            yield open_run(path)


def collect_out_of_fold(directory: str | Path, folds: int) -> OutOfFold:
    """Predict each image by a model that was not trained on it, and write the directory's files.

    Args:
        directory: the directory of `train_folds`, in which all folds are finished.
        folds: the number of folds.

    Raises:
        RunError: a fold is not finished.
        OSError: a file cannot be written.
    """
    directory = Path(directory)
    runs = [open_run(fold_path(directory, k + 1)) for k in range(folds)]
    splits = Splits(runs[0].recipe.data)
    fingerprint = splits.fingerprint()
    for run in runs:
        check_data(run.path, fingerprint)
    identity = {"data_fingerprint": fingerprint, "models_fingerprint": _fingerprint(runs)}
    if (known := read_folds(directory)) and identity.items() <= known.items():
        return read_out_of_fold(directory)
    result = _predict(runs, splits)
    with naming_the_file(directory / FOLDS):
        _write(directory, result)
        write_json(
            directory / FOLDS,
            {**identity, **_summarize(runs, result)},
        )
    return result


def _fingerprint(runs: Sequence[Run]) -> str:
    """Return a hash that changes if a fold is trained again, or if there are other folds."""
    # The results contain the duration of the training, which is never the same twice.
    results = ((run.path / name).read_bytes() for run in runs for name in (CONFIG, RESULTS))
    return hashlib.sha256(b"".join(results)).hexdigest()


def read_folds(directory: str | Path) -> dict[str, Any] | None:
    """Return the content of `folds.json`, or None if not all folds are finished."""
    path = Path(directory) / FOLDS
    if not path.is_file():
        return None
    values: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return values


def read_out_of_fold(directory: str | Path) -> OutOfFold:
    """Return the predictions that `collect_out_of_fold` has written."""
    with np.load(Path(directory) / f"{OUT_OF_FOLD}.npz", allow_pickle=False) as archive:
        return OutOfFold(**{field.name: archive[field.name] for field in fields(OutOfFold)})


def _predict(runs: Sequence[Run], splits: Splits) -> OutOfFold:
    pool, data = splits.pool, runs[0].recipe.data
    batch_size = runs[0].recipe.training.batch_size
    test = splits.open(data.test_split, batch_size=batch_size)
    shape = (len(pool.folds), len(splits.labels))
    probabilities, labels = np.zeros(shape, np.float32), np.zeros(len(pool.folds), np.int64)
    test_probabilities = np.zeros((test.num_examples, len(splits.labels)), np.float64)
    total = len(pool.folds) + len(runs) * test.num_examples
    with counting("predicting images that the models have not seen", total) as count:
        for run in runs:
            model, members = run.load_model(), pool.folds == run.recipe.data.fold
            held_out = Splits(run.recipe.data).open(data.validation_split, batch_size=batch_size)
            probabilities[members], labels[members] = _predict_split(model, held_out, count)
            of_test, test_labels = _predict_split(model, test, count)
            test_probabilities += of_test / len(runs)
    pool_files = [str(pool.path_of(i)) if pool.path_of else "" for i in range(len(pool.folds))]
    test_files = [str(test.path_of(i)) if test.path_of else "" for i in range(test.num_examples)]
    return OutOfFold(
        classes=np.array(splits.labels),
        probabilities=np.concatenate([probabilities, test_probabilities.astype(np.float32)]),
        labels=np.concatenate([labels, test_labels]),
        folds=np.concatenate([pool.folds, np.zeros(test.num_examples, np.int64)]),
        splits=np.array([*pool.splits, *[data.test_split] * test.num_examples]),
        indices=np.concatenate([pool.indices, np.arange(test.num_examples)]),
        files=np.array([*pool_files, *test_files]),
    )


def _predict_split(model: keras.Model, split: Split, count: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities [N, K] and labels [N] of a split, in the order of the split."""
    predict = predictor(model)
    probabilities, labels = [], []
    for images, targets in split:
        probabilities.append(predict(images))
        labels.append(np.asarray(targets))
        count(len(labels[-1]))
    return np.concatenate(probabilities), np.concatenate(labels)


def _summarize(runs: Sequence[Run], result: OutOfFold) -> dict[str, Any]:
    hits = result.probabilities.argmax(axis=1) == result.labels
    accuracies = [float(np.mean(hits[result.folds == k + 1])) for k in range(len(runs))]
    return {
        "folds": len(runs),
        "accuracy_mean": statistics.fmean(accuracies),
        "accuracy_std": statistics.stdev(accuracies),
        "runs": [
            {
                "fold": k + 1,
                "images": int(np.sum(result.folds == k + 1)),
                "accuracy": accuracies[k],
                "best_epoch": run.results()["best_epoch"],
                "training_seconds": run.results()["training_seconds"],
            }
            for k, run in enumerate(runs)
        ],
    }


def _write(directory: Path, result: OutOfFold) -> None:
    arrays = {field.name: getattr(result, field.name) for field in fields(result)}
    with replacing(directory / f"{OUT_OF_FOLD}.npz") as partial:
        np.savez_compressed(partial, **arrays)
    predicted = result.probabilities.argmax(axis=1)
    rows = [
        {
            "file": escape_cell(str(result.files[i])),
            "split": result.splits[i],
            "index": int(result.indices[i]),
            "fold": int(result.folds[i]),
            "label": escape_cell(str(result.classes[result.labels[i]])),
            "label_probability": round(float(result.probabilities[i, result.labels[i]]), 6),
            "predicted": escape_cell(str(result.classes[predicted[i]])),
            "confidence": round(float(result.probabilities[i, predicted[i]]), 6),
        }
        for i in range(len(result.labels))
    ]
    text = format_rows(rows, _COLUMNS, header=True)
    write_names(directory / f"{OUT_OF_FOLD}.csv", text)
