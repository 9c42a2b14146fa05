"""`keras-cnns evaluate`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keras_cnns.commands import SOME_FAILED
from keras_cnns.messages import counting
from keras_cnns.quiet import quiet_stderr
from keras_cnns.table import print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keras_cnns.runs.predictions import Predictions
    from keras_cnns.runs.run import Run

_MAX_LISTED = 10  # number of unreadable files that are listed


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run directory of a finished training.")],
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="Directory of other labelled images, with one subdirectory per class; by default "
            "a split of the recipe."
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Split of the recipe: train, validation or test.", show_default="test"),
    ] = None,
    unknown: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGES",
            help="Compare the split's images with images of unknown objects: a directory of images "
            "or idx files, or the name of a data set, such as digits. The report shows the result.",
        ),
    ] = None,
) -> None:
    """Print accuracy and loss of a run's model, and the recall of each class.

    The images are those of a split of the run's recipe, or of a directory.
    All intervals are 95 % confidence intervals. With --unknown, print instead
    how well the model's scores distinguish known images from unknown objects.
    """
    if folder and split:
        raise typer.BadParameter("name a directory or a split, not both", param_hint="--split")
    if folder and unknown is not None:
        raise typer.BadParameter(
            "the known images are those of a split: leave the directory out", param_hint="--unknown"
        )
    with quiet_stderr():
        from keras_cnns.runs.evaluation import find_split, predict_split
        from keras_cnns.runs.labelled_folder import evaluate_folder
        from keras_cnns.runs.run import open_run

    finished = open_run(run)
    if folder is None:
        try:
            name = find_split(finished.recipe.data, split or "test")
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--split") from error
        if unknown is not None:
            _print_unknown(finished, name, unknown)
            return
        _print_metrics(run, name, predict_split(finished, name), finished.labels)
        return
    evaluation = evaluate_folder(finished, folder)
    for note in evaluation.notes:
        print(f"note: {note}", file=sys.stderr)
    _print_metrics(run, str(folder), evaluation.predictions, finished.labels)
    if evaluation.unreadable:
        count = len(evaluation.unreadable)
        what = (
            "1 file cannot be read and is"
            if count == 1
            else f"{count} files cannot be read and are"
        )
        print(f"{what} not counted:", file=sys.stderr)
        for line in evaluation.unreadable[:_MAX_LISTED]:
            print(f"  {line}", file=sys.stderr)
        if count > _MAX_LISTED:
            print(f"  and {count - _MAX_LISTED} more", file=sys.stderr)
        raise typer.Exit(SOME_FAILED)


def _print_unknown(run: "Run", split: str, unknown: str) -> None:
    from keras_cnns.files import naming_the_file, write_json
    from keras_cnns.report.selective_section import (
        ACCEPTANCE_COLUMNS,
        SCORE_COLUMNS,
        acceptance_rows,
        score_rows,
    )
    from keras_cnns.runs.names import UNKNOWN
    from keras_cnns.runs.unknown import compare_unknown

    try:
        compared = compare_unknown(run, split, unknown, counting).to_dict()
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--unknown") from error
    path = run.path / UNKNOWN
    with naming_the_file(path):
        write_json(path, compared)
    print(
        f"{run.path}: {compared['known_images']:,} known images ({split}), "
        f"{compared['unknown_images']:,} unknown images ({compared['unknown']})"
    )
    print_table(SCORE_COLUMNS, score_rows(compared), numbers=range(1, len(SCORE_COLUMNS)))
    if compared["thresholds"]:
        print("\nimages whose highest probability reaches a threshold:")
        columns = ACCEPTANCE_COLUMNS
        print_table(columns, acceptance_rows(compared), numbers=range(1, len(columns)))
    print(f"written to {path}; `keras-cnns report {run.path}` shows it")


def _print_metrics(
    run: Path, images: str, predictions: "Predictions", labels: "Sequence[str]"
) -> None:
    import numpy as np

    from keras_cnns.intervals import format_interval
    from keras_cnns.report.metrics import (
        balanced_accuracy,
        confusion_counts,
        recall_intervals,
    )

    counts = confusion_counts(predictions.labels, predictions.predicted, predictions.classes)
    hits, totals = np.diag(counts), counts.sum(axis=1)
    print(
        f"{run}: {images}: accuracy {predictions.accuracy:.2%} "
        f"(95 % interval {format_interval(hits.sum(), totals.sum())}), "
        f"balanced accuracy {balanced_accuracy(counts):.2%}, "
        f"loss {predictions.loss:.4f}, {totals.sum()} images"
    )
    rows = [
        (label, str(total), str(hit), *cells)
        for label, total, hit, cells in zip(
            labels, totals, hits, recall_intervals(counts), strict=True
        )
    ]
    columns = ("class", "images", "correct", "recall", "95 % interval")
    print_table(columns, rows, numbers=range(1, len(columns)))
