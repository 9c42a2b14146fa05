"""`keras-cnns evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from keras_cnns.quiet import quiet_stderr


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run directory of a finished training.")],
    split: Annotated[
        str, typer.Option(help="Split of the recipe: train, validation or test.")
    ] = "test",
) -> None:
    """Print the loss and the accuracy of a run's model on a split of its recipe."""
    with quiet_stderr():
        from keras_cnns.training import evaluate as evaluate_run
        from keras_cnns.training import find_split, open_run

    finished = open_run(run)
    try:
        name = find_split(finished.recipe.data, split)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--split") from error
    results = evaluate_run(finished, split)
    print(
        f"{run}: {name}: accuracy {results['accuracy']:.2%}, "
        f"loss {results['loss']:.4f}, {results['samples']} images"
    )
