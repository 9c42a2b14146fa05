"""Review the labels of a run's images: train folds, rank the labels, write a table and a page."""

from dataclasses import dataclass, replace
from pathlib import Path

from keras_cnns.data import Splits
from keras_cnns.files import write_text
from keras_cnns.messages import print_message
from keras_cnns.recipes import Recipe
from keras_cnns.review.duration import estimate_duration
from keras_cnns.review.page import render
from keras_cnns.review.scores import Ranking, rank_labels
from keras_cnns.review.table import TABLE, format_table, write_table
from keras_cnns.runs.names import RESULTS, named
from keras_cnns.runs.run import Run, RunError, open_run
from keras_cnns.training.folds import (
    OutOfFold,
    collect_out_of_fold,
    fold_path,
    read_folds,
    train_folds,
    with_fold,
)

_PAGE = "review.html"
_DEFAULT_FOLDS = 5


@dataclass(frozen=True)
class Review:
    """A finished review."""

    ranking: Ranking
    out_of_fold: OutOfFold
    table: Path
    page: Path


def review(run: str | Path, *, folds: int | None = None, to: str | Path | None = None) -> Review:
    """Rank the labels of all images of a run's recipe, and write a table and a page.

    The label of a training or validation image is ranked by the model of its fold, and the label of
    a test image by all models. The folds are trained in the folder `to`; folds that are already
    finished there are used.

    Args:
        run: a finished run, or a directory of `keras-cnns train --folds`, whose folds are used.
        folds: the number of folds, by default 5. If `run` is a directory of folds, their number.
        to: the folder of the table, the page and the folds; by default the run's name followed by
            `-review`, beside the run.

    Raises:
        RunError: there is no such run, it is the run of a fold, or `to` contains other runs.
        ValueError: there are too few images for folds, or the table has been edited.
    """
    run = named(Path(run))
    to = Path(to) if to else run.with_name(f"{run.name}-review")
    if known := read_folds(run):
        if folds not in (None, known["folds"]):
            raise RunError(f"{run} has {known['folds']} folds, and not {folds}")
        recipe = open_run(fold_path(run, 1)).recipe
        recipe = replace(recipe, data=replace(recipe.data, fold=0, folds=0))
        found = collect_out_of_fold(run, known["folds"])
    elif fold_path(run, 1).exists():
        raise RunError(
            f"the folds in {run} are not finished; repeat the command `keras-cnns train --folds` "
            "that began them"
        )
    else:
        finished = open_run(run)
        recipe = finished.recipe
        if recipe.data.fold:
            raise RunError(
                f"{run} is the run of fold {recipe.data.fold} of {recipe.data.folds}; review the "
                "directory of all folds"
            )
        found = _train(finished, recipe, to, folds or _DEFAULT_FOLDS)
    to.mkdir(parents=True, exist_ok=True)
    ranking = rank_labels(found.probabilities, found.labels)
    write_table(to / TABLE, format_table(recipe.data, found, ranking))
    write_text(to / _PAGE, render(run, recipe, found, ranking, to))
    return Review(ranking, found, to / TABLE, to / _PAGE)


def _train(run: Run, recipe: Recipe, directory: Path, folds: int) -> OutOfFold:
    """Print how long the training takes, train the folds, and return their predictions."""
    splits = Splits(with_fold(recipe, 1, folds).data)
    unfinished = [
        k for k in range(1, folds + 1) if not (fold_path(directory, k) / RESULTS).exists()
    ]
    if unfinished:
        if (directory / TABLE).exists():  # which is written when all folds are finished
            raise ValueError(
                f"{directory / TABLE} is the table of another review; choose another folder for "
                "this review"
            )
        duration = estimate_duration(run, len(splits.pool.folds), folds, len(unfinished))
        print_message(
            duration.describe()
            if duration
            else f"training {len(unfinished)} folds; the duration is unknown, because {run.path} "
            "has no measured steps"
        )
    for _ in train_folds(recipe, directory, folds):
        pass
    return collect_out_of_fold(directory, folds)
