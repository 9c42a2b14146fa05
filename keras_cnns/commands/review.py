"""`keras-cnns data review`."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from keras_cnns.quiet import quiet_stderr
from keras_cnns.table import print_table

_SHOWN = 10  # number of labels that are printed


def review(
    run: Annotated[
        Path,
        typer.Argument(
            help="Run directory of a finished training, or directory of `train --folds`."
        ),
    ],
    folds: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Number of models, each trained without the part of the images that it predicts.",
            show_default="5",
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the table, the page and the models; by default beside the run, with "
            "-review added to its name."
        ),
    ] = None,
) -> None:
    """Find images whose label is probably wrong.

    Train a model for each fold, predict each image by a model that has not
    seen it, and rank the labels by their probability. The same command
    continues if it was stopped.
    """
    with quiet_stderr():
        from keras_cnns.data.sources.folder.findings import printable
        from keras_cnns.review import review as review_run
    result = review_run(run, folds=folds, to=to)
    found, ranking = result.out_of_fold, result.ranking
    rows = [
        (
            str(rank),
            printable(shlex.quote(Path(str(found.files[i])).name))
            if found.files[i]
            else f"{found.splits[i]} {found.indices[i]}",
            printable(str(found.classes[found.labels[i]])),
            f"{ranking.confidences[i]:.1%}",
            printable(str(found.classes[ranking.suggested[i]])),
            f"{ranking.suggested_probabilities[i]:.1%}",
        )
        for rank, i in enumerate(ranking.order[:_SHOWN].tolist(), 1)
    ]
    columns = ("rank", "image", "label", "probability", "suggested", "probability")
    print_table(columns, rows, numbers=(0, 3, 5))
    print(
        f"{int(ranking.is_issue.sum())} of {len(found.labels)} labels are probably wrong; "
        f"{result.table} ranks all of them"
    )
    print(f"{result.page}: pictures, and how to correct the labels")
