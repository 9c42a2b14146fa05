"""`keras-cnns train --folds`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_cnns.quiet import quiet_stderr
from keras_cnns.recipes import Recipe
from keras_cnns.runs.names import FOLDS, OUT_OF_FOLD
from keras_cnns.table import print_table

if TYPE_CHECKING:
    from keras_cnns.training import Run


def run_folds(
    recipe: Recipe,
    directory: Path,
    folds: int,
    write_report: "Callable[[Run], None]",
    **intervals: Any,
) -> None:
    """Train a model for each fold, and print their validation accuracies.

    Args:
        recipe: the recipe without folds.
        directory: receives the runs and the predictions.
        folds: the number of folds.
        write_report: a function that writes the report of a finished run.
        intervals: the intervals between checkpoints, as in `keras_cnns.training.train`.
    """
    with quiet_stderr():
        from keras_cnns.training.folds import collect_out_of_fold, read_folds, train_folds
    for run in train_folds(recipe, directory, folds, **intervals):
        write_report(run)
    collect_out_of_fold(directory, folds)
    summary = read_folds(directory)
    assert summary
    rows = [
        (str(each["fold"]), str(each["images"]), f"{each['accuracy']:.2%}", str(each["best_epoch"]))
        for each in summary["runs"]
    ]
    columns = ("fold", "images", "validation accuracy", "best epoch")
    print_table(columns, rows, numbers=range(len(columns)))
    print(
        f"{directory}: validation accuracy {summary['accuracy_mean']:.2%}, standard deviation "
        f"{summary['accuracy_std'] * 100:.2f} percentage points over {folds} folds"
    )
    print(
        f"{directory / OUT_OF_FOLD}.csv and .npz: the prediction of each image by models that have "
        f"not seen it; {directory / FOLDS}: the numbers above"
    )
