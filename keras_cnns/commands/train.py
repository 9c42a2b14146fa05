"""`keras-cnns train`."""

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_cnns.commands.distribution import (
    ConnectSeconds,
    Coordinator,
    Devices,
    Processes,
    ProcessId,
    choose,
)
from keras_cnns.commands.dry_run import print_dry_run
from keras_cnns.commands.folds import run_folds
from keras_cnns.commands.lr_finder import run_lr_finder
from keras_cnns.commands.offline import Offline
from keras_cnns.messages import print_message
from keras_cnns.quiet import quiet_stderr
from keras_cnns.recipes import RecipeError, list_recipes, load_recipe
from keras_cnns.runs.names import REPORT

if TYPE_CHECKING:
    from keras_cnns.training import Run


def train(
    recipe: Annotated[
        str,
        typer.Option(help="Name of a built-in recipe (see above) or path of a TOML file."),
    ],
    run: Annotated[
        Path | None,
        typer.Option(
            help="Run directory, which is new or contains an interrupted training; with --folds, "
            "the directory of the folds' runs."
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="SECTION.KEY=VALUE", help="Change a value of the recipe; repeatable."
        ),
    ] = None,
    checkpoint_seconds: Annotated[
        float,
        typer.Option(
            min=0,
            help="Number of seconds between checkpoints; more if saving would take more than 0.5 % "
            "of the time.",
        ),
    ] = 60,
    checkpoint_steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Also save a checkpoint at each multiple of this number of steps."
        ),
    ] = None,
    skip_bad: Annotated[
        bool,
        typer.Option(
            "--skip-bad",
            help="Skip image files whose errors would otherwise prevent the training.",
        ),
    ] = False,
    folds: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Cross-validation: divide the training and validation images into this number of "
            "folds, and train a model for each of them.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Train a few steps; print the recipe, and the steps, time and memory that the "
            "whole training needs. Nothing is written.",
        ),
    ] = False,
    find_lr: Annotated[
        bool,
        typer.Option(
            "--find-lr",
            help="Train 100 steps with a rising learning rate, propose a learning rate and plot "
            "the loss.",
        ),
    ] = False,
    offline: Offline = False,
    devices: Devices = None,
    coordinator: Coordinator = None,
    process_id: ProcessId = None,
    processes: Processes = None,
    connect_seconds: ConnectSeconds = None,
) -> None:
    """Train a model as a recipe describes.

    The run directory receives the model of the best epoch. The same command
    resumes an interrupted training from its latest checkpoint.
    """
    try:
        skipping = ["data.skip_bad=true"] if skip_bad else []
        loaded = load_recipe(recipe, [*(overrides or ()), *skipping])
    except RecipeError as error:
        raise typer.BadParameter(str(error)) from error
    if folds and (dry_run or find_lr):
        raise typer.BadParameter(
            "it cannot be combined with --dry-run or --find-lr", param_hint="--folds"
        )
    distributed = choose(
        loaded,
        *(devices, coordinator, process_id, processes, connect_seconds),
        excluded={"--folds": bool(folds), "--dry-run": dry_run, "--find-lr": find_lr},
    )
    _check_backend()
    if dry_run:
        return print_dry_run(loaded)
    if find_lr:
        return run_lr_finder(loaded, run)
    if run is None:
        raise typer.BadParameter("Missing option '--run', the run directory")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with quiet_stderr():
        from keras_cnns.training import RunError
        from keras_cnns.training import train as train_recipe

    intervals: dict[str, Any] = {
        "checkpoint_seconds": checkpoint_seconds,
        "checkpoint_steps": checkpoint_steps,
    }
    try:
        if folds:
            return run_folds(loaded, run, folds, _write_report, **intervals)
        with distributed() as distribution:
            finished = train_recipe(loaded, run, distribution=distribution, **intervals)
            if distribution.is_first:
                _finish(finished)
    except RunError as error:
        raise typer.BadParameter(str(error)) from error


def _check_backend() -> None:
    """Raise typer.BadParameter if Keras' backend cannot train."""
    with quiet_stderr():
        from keras_cnns.training.backend import check_backend

    try:
        check_backend()
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _finish(finished: "Run") -> None:
    """Write the report of a finished run, and print its results."""
    _write_report(finished)
    results = finished.results()
    test = results["test"]
    print(
        f"{finished.path}: test accuracy {test['accuracy']:.2%} over {test['samples']} images, "
        f"epoch {results['best_epoch']} of {finished.recipe.training.epochs}, "
        f"trained in {results['training_seconds']:.0f} s"
    )


def _write_report(run: "Run") -> None:
    """Write the report of a run, if this process has trained it or there is no report yet."""
    if run.predictions is None and (run.path / REPORT).exists():
        return
    from keras_cnns.report import write_report

    try:
        write_report(run.path, run.predictions)
    except OSError as error:
        print_message(
            f"cannot write the report: {error.strerror}; `keras-cnns report {run.path}` tries again"
        )


# The names are part of the docstring, which Typer prints over the full width: the narrow column of
# an option would truncate them.
train.__doc__ = f"""{train.__doc__}
    The built-in recipes are {", ".join(list_recipes())}."""
